//! zync-database: the tables that matter, with zync's names.

use super::{Numbers, Size};

/// The statements that make and fill the database; run them as its owner.
pub fn statements(seed: u64, size: Size) -> Vec<String> {
    let mut numbers = Numbers::new(seed ^ 0x5a5a);
    let mut sql: Vec<String> = [
        "CREATE TABLE tenants (id bigserial PRIMARY KEY, endpoint text NOT NULL, access_token text NOT NULL)",
        "CREATE TABLE models (id bigserial PRIMARY KEY, tenant_id bigint NOT NULL REFERENCES tenants, record_type varchar NOT NULL, \
         record_id bigint NOT NULL, created_at timestamp NOT NULL, updated_at timestamp NOT NULL)",
        "CREATE UNIQUE INDEX index_models_on_record ON models (record_type, record_id)",
        "CREATE TABLE notifications (id bigserial PRIMARY KEY, model_id bigint NOT NULL REFERENCES models, data jsonb NOT NULL, tenant_id bigint NOT NULL)",
        "CREATE TABLE que_jobs (priority smallint NOT NULL DEFAULT 100, run_at timestamptz NOT NULL DEFAULT now(), id bigserial PRIMARY KEY, \
         job_class text NOT NULL, error_count integer NOT NULL DEFAULT 0, queue text NOT NULL DEFAULT 'default', args jsonb NOT NULL DEFAULT '[]', \
         job_schema_version integer NOT NULL, CONSTRAINT queue_length CHECK (char_length(queue) <= 100))",
        // Que reads its schema's version from this comment: a restore that loses it breaks the queue.
        "COMMENT ON TABLE que_jobs IS '5'",
        "CREATE UNLOGGED TABLE que_lockers (pid integer PRIMARY KEY, worker_count integer NOT NULL, queues text[] NOT NULL)",
        "CREATE FUNCTION que_job_notify() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_notify('que_listener', NEW.id::text); RETURN NULL; END $$",
        "CREATE TRIGGER que_job_notify AFTER INSERT ON que_jobs FOR EACH ROW EXECUTE FUNCTION que_job_notify()",
    ]
    .map(str::to_owned)
    .to_vec();
    sql.push(format!(
        "INSERT INTO tenants (endpoint, access_token) VALUES ('https://tenant-admin.example.com', '{}')",
        numbers.key()
    ));
    let ids: Vec<u32> = (1..=size.applications).collect();
    for batch in ids.chunks(500) {
        let models: Vec<_> = batch
            .iter()
            .map(|n| format!("(1, 'Application', {n}, '2026-11-22 12:00', '2026-11-22 12:00:00.{n:06}')"))
            .collect();
        sql.push(format!(
            "INSERT INTO models (tenant_id, record_type, record_id, created_at, updated_at) VALUES {}",
            models.join(", ")
        ));
    }
    sql.push(
        "INSERT INTO notifications (model_id, data, tenant_id) SELECT id, jsonb_build_object('type', 'Application', 'id', record_id, 'note', E'\\\\\\t\\u00e9\\U0001F980'), \
         1 FROM models"
            .to_owned(),
    );
    sql.push("INSERT INTO que_jobs (job_class, args, job_schema_version) SELECT 'ProcessEntryJob', jsonb_build_array(id), 1 FROM models LIMIT 20".to_owned());
    sql.push("INSERT INTO que_lockers VALUES (4711, 10, '{default,integrations}')".to_owned());
    sql.push("SELECT setval('notifications_id_seq', 987654321)".to_owned());
    sql
}

/// Statements that destroy and change what is there.
pub fn wreck() -> Vec<String> {
    [
        "TRUNCATE notifications",
        "DROP TABLE que_jobs",
        "UPDATE models SET record_type = 'Gone'",
        "CREATE TABLE left_by_an_attacker (id int)",
        "SELECT setval('models_id_seq', 1)",
    ]
    .map(str::to_owned)
    .to_vec()
}
