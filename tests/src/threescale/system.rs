//! system-mysql: the tables that matter, with porta's names.

use super::{Numbers, Size, application_id};

const TABLE_END: &str = "ENGINE=InnoDB DEFAULT CHARSET=utf8mb3 COLLATE=utf8mb3_bin";

/// Tables as (name, columns and keys). All utf8mb3, as porta's are.
const TABLES: &[(&str, &str)] = &[
    (
        "accounts",
        "id bigint NOT NULL AUTO_INCREMENT, org_name varchar(255) NOT NULL DEFAULT '', provider tinyint(1) DEFAULT 0, buyer tinyint(1) DEFAULT 0, \
         provider_account_id bigint DEFAULT NULL, master tinyint(1) DEFAULT NULL, state varchar(255) DEFAULT NULL, default_service_id bigint DEFAULT NULL, \
         paid_at datetime DEFAULT NULL, tenant_id bigint DEFAULT NULL, created_at datetime NOT NULL, s3_prefix varchar(255) DEFAULT NULL, PRIMARY KEY (id), UNIQUE KEY index_accounts_on_master (master)",
    ),
    (
        "services",
        "id bigint NOT NULL AUTO_INCREMENT, account_id bigint NOT NULL, name varchar(255) DEFAULT '', state varchar(255) NOT NULL, \
         notification_settings text, system_name varchar(255) NOT NULL, backend_version varchar(255) NOT NULL DEFAULT '1', \
         referrer_filters_required tinyint(1) DEFAULT 0, tenant_id bigint DEFAULT NULL, PRIMARY KEY (id), \
         UNIQUE KEY index_services_on_system_name_and_account_id_and_deleted_at (system_name, account_id)",
    ),
    (
        "plans",
        "id bigint NOT NULL AUTO_INCREMENT, issuer_id bigint NOT NULL, name varchar(255) DEFAULT NULL, original_id bigint NOT NULL DEFAULT 0, \
         type varchar(255) NOT NULL, issuer_type varchar(255) NOT NULL, state varchar(255) NOT NULL, tenant_id bigint DEFAULT NULL, PRIMARY KEY (id)",
    ),
    (
        "cinstances",
        "id bigint NOT NULL AUTO_INCREMENT, plan_id bigint NOT NULL, user_account_id bigint DEFAULT NULL, user_key varchar(256) DEFAULT NULL, \
         state varchar(255) NOT NULL, application_id varchar(255) DEFAULT NULL, name varchar(255) DEFAULT NULL, type varchar(255) NOT NULL DEFAULT 'Cinstance', \
         redirect_url text, service_id bigint DEFAULT NULL, tenant_id bigint DEFAULT NULL, PRIMARY KEY (id), \
         KEY index_cinstances_on_application_id (application_id)",
    ),
    (
        "application_keys",
        "id bigint NOT NULL AUTO_INCREMENT, application_id bigint NOT NULL, value varchar(255) NOT NULL, tenant_id bigint DEFAULT NULL, PRIMARY KEY (id), \
         UNIQUE KEY index_application_keys_on_application_id_and_value (application_id, value)",
    ),
    (
        "metrics",
        "id bigint NOT NULL AUTO_INCREMENT, system_name varchar(255) DEFAULT NULL, parent_id bigint DEFAULT NULL, owner_id bigint DEFAULT NULL, \
         owner_type varchar(255) DEFAULT NULL, service_id bigint DEFAULT NULL, tenant_id bigint DEFAULT NULL, PRIMARY KEY (id), \
         UNIQUE KEY index_metrics_on_owner_type_and_owner_id_and_system_name (owner_type, owner_id, system_name)",
    ),
    (
        "usage_limits",
        "id bigint NOT NULL AUTO_INCREMENT, metric_id bigint DEFAULT NULL, period varchar(255) DEFAULT NULL, value bigint DEFAULT NULL, \
         plan_id bigint DEFAULT NULL, plan_type varchar(255) NOT NULL, tenant_id bigint DEFAULT NULL, PRIMARY KEY (id)",
    ),
    (
        "service_tokens",
        "id bigint NOT NULL AUTO_INCREMENT, service_id bigint DEFAULT NULL, value varchar(255) DEFAULT NULL, tenant_id bigint DEFAULT NULL, PRIMARY KEY (id)",
    ),
    (
        "invoices",
        "id bigint NOT NULL AUTO_INCREMENT, provider_account_id bigint DEFAULT NULL, due_on date DEFAULT NULL, period date DEFAULT NULL, \
         friendly_id varchar(255) NOT NULL DEFAULT 'fix', tenant_id bigint DEFAULT NULL, pdf_file_name varchar(255) DEFAULT NULL, PRIMARY KEY (id)",
    ),
    (
        "cms_files",
        "id bigint NOT NULL AUTO_INCREMENT, provider_id bigint NOT NULL, attachment_updated_at datetime DEFAULT NULL, attachment_file_name varchar(255) DEFAULT NULL, \
         random_secret varchar(255) DEFAULT NULL, path varchar(255) DEFAULT NULL, created_at datetime DEFAULT NULL, tenant_id bigint DEFAULT NULL, PRIMARY KEY (id)",
    ),
    (
        "profiles",
        "id bigint NOT NULL AUTO_INCREMENT, account_id bigint NOT NULL, logo_file_name varchar(255) DEFAULT NULL, tenant_id bigint DEFAULT NULL, PRIMARY KEY (id)",
    ),
    (
        "policies",
        "id bigint NOT NULL AUTO_INCREMENT, name varchar(255) NOT NULL, `schema` longblob, tenant_id bigint DEFAULT NULL, PRIMARY KEY (id)",
    ),
    (
        "referrer_filters",
        "id bigint NOT NULL AUTO_INCREMENT, application_id bigint NOT NULL, value varchar(255) NOT NULL, tenant_id bigint DEFAULT NULL, PRIMARY KEY (id)",
    ),
    ("backend_apis", "id bigint NOT NULL AUTO_INCREMENT, account_id bigint DEFAULT NULL, PRIMARY KEY (id)"),
    (
        "backend_api_configs",
        "id bigint NOT NULL AUTO_INCREMENT, backend_api_id bigint DEFAULT NULL, service_id bigint DEFAULT NULL, PRIMARY KEY (id)",
    ),
    ("backend_events", "id bigint NOT NULL, data text, PRIMARY KEY (id)"),
    (
        "alerts",
        "id bigint NOT NULL AUTO_INCREMENT, account_id bigint NOT NULL, alert_id bigint NOT NULL, PRIMARY KEY (id)",
    ),
    ("schema_migrations", "version varchar(255) NOT NULL, PRIMARY KEY (version)"),
    (
        "line_items",
        "id bigint NOT NULL AUTO_INCREMENT, invoice_id bigint DEFAULT NULL, cost decimal(20,4) NOT NULL DEFAULT 0.0000, PRIMARY KEY (id), \
         CONSTRAINT fk_line_items_invoice FOREIGN KEY (invoice_id) REFERENCES invoices (id)",
    ),
];

/// Rows that name files; [`super::storage`] has those files.
const ATTACHMENTS: [(&str, &str); 2] = [
    (
        "cms_files",
        "(1, 2, '2020-02-02 20:20:20', 'my logo.png', 'dc0b26879824b015', '/my logo.png', '2020-01-01 00:00:00', 2), \
         (2, 2, NULL, 'ü.tar.gz', '5a8d433119e96241', '/ü', '2020-02-02 20:20:20', 2), (3, 2, NULL, NULL, NULL, '/nothing', NULL, 2)",
    ),
    // The logo of a buyer is kept with his provider's.
    ("profiles", "(1, 2, 'logo.png', 2), (2, 3, 'logo', 2), (3, 1, NULL, NULL)"),
];

/// The statements that make and fill a database; run them one by one in a session of the database, as root.
pub fn statements(seed: u64, size: Size) -> Vec<String> {
    let mut sql = vec![
        // Zero dates are in real installations, and today's servers refuse to insert them otherwise.
        "SET sql_mode = 'NO_ENGINE_SUBSTITUTION'".to_owned(),
        "SET NAMES utf8mb4".to_owned(),
        "SET @disable_triggers = 1".to_owned(),
    ];
    for (name, columns) in TABLES {
        sql.push(format!("CREATE TABLE {name} ({columns}) {TABLE_END}"));
    }
    // The only tables that can hold 4-byte characters, as upstream.
    sql.push(
        "CREATE TABLE annotations (id bigint NOT NULL AUTO_INCREMENT, name varchar(255) NOT NULL, value varchar(255) DEFAULT NULL, \
         annotated_type varchar(255) NOT NULL, annotated_id bigint NOT NULL, created_at datetime(6) NOT NULL, PRIMARY KEY (id)) \
         ENGINE=InnoDB AUTO_INCREMENT=4000000000000 DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin"
            .to_owned(),
    );
    rows(&mut sql, seed, size);
    triggers(&mut sql);
    sql
}

fn rows(sql: &mut Vec<String>, seed: u64, size: Size) {
    let mut numbers = Numbers::new(seed);
    sql.push("INSERT INTO schema_migrations VALUES ('20260101000000'), ('20260619102359')".to_owned());
    sql.push(
        "INSERT INTO accounts VALUES (1, 'Master', 1, 0, NULL, 1, 'approved', 1, NULL, NULL, '2020-02-02 20:20:20', NULL), \
         (2, 'Tenant', 1, 0, 1, NULL, 'approved', 2, '0000-00-00 00:00:00', 2, '2020-02-02 20:20:20', 'Tenant'), \
         (3, 'Buyer', 0, 1, 2, NULL, 'approved', NULL, NULL, 2, '2020-02-02 20:20:20', NULL)"
            .to_owned(),
    );
    sql.push(
        "INSERT INTO services VALUES (1, 1, 'Master API', 'incomplete', NULL, 'master', '2', 0, NULL), \
         (2, 2, 'API', 'incomplete', '---\\n:web_buyer:\\n- 50\\n- 100\\n', 'api', '1', 1, 2)"
            .to_owned(),
    );
    sql.push("INSERT INTO plans VALUES (1, 2, 'Basic', 0, 'ApplicationPlan', 'Service', 'published', 2)".to_owned());
    sql.push(
        "INSERT INTO metrics VALUES (1, 'hits', NULL, 2, 'Service', 2, 2), (2, 'search', 1, 2, 'Service', 2, 2)"
            .to_owned(),
    );
    for row in [
        "referrer_filters VALUES (1, 4, '*.example.com', 2)",
        "backend_apis VALUES (1, 2)",
        "backend_api_configs VALUES (1, 1, 2)",
        "backend_events VALUES (12, '{}')",
        "alerts VALUES (1, 3, 3)",
    ] {
        sql.push(format!("INSERT INTO {row}"));
    }
    sql.push("INSERT INTO usage_limits VALUES (1, 1, 'day', 9223372036854775807, 1, 'Plan', 2)".to_owned());
    sql.push(format!("INSERT INTO service_tokens VALUES (1, 2, '{}', 2)", numbers.key()));
    sql.push("INSERT INTO invoices VALUES (1, 2, '0000-00-00', '2026-11-01', 'fix', NULL, NULL), (2, 2, '2026-11-30', '2026-11-01', '2026-00000001', 2, 'invoice-2.pdf')".to_owned());
    for (table, values) in ATTACHMENTS {
        sql.push(format!("INSERT INTO {table} VALUES {values}"));
    }
    sql.push("INSERT INTO line_items VALUES (1, 1, 12.3400), (2, 2, 0.0001)".to_owned());
    let all: Vec<u8> = (0..=255).collect();
    for blob in [all, numbers.bytes(5_000), Vec::new(), b"\0'\\\x1a--\n;".to_vec()] {
        let hex: String = blob.iter().map(|b| format!("{b:02x}")).collect();
        sql.push(format!("INSERT INTO policies (name, `schema`, tenant_id) VALUES ('p', x'{hex}', 2)"));
    }
    for (name, value) in [("emoji", "🦀🔑"), ("quote", "it''s; -- not a comment"), ("cjk", "漢字"), ("rtl", "שלום")]
    {
        sql.push(format!("INSERT INTO annotations (name, value, annotated_type, annotated_id, created_at) VALUES ('{name}', '{value}', 'Service', 2, '2026-11-22 12:00:00.123456')"));
    }
    let ids: Vec<u32> = (1..=size.applications).collect();
    for batch in ids.chunks(200) {
        let mut applications = Vec::new();
        let mut keys = Vec::new();
        for n in batch {
            let id = application_id(*n).replace('\\', "\\\\").replace('\'', "''");
            let state = ["live", "live", "live", "suspended", "pending"][(*n % 5) as usize];
            applications.push(format!(
                "({n}, 1, 2, '{}', '{state}', '{id}', 'Application {n}', 'Cinstance', NULL, 2, 2)",
                numbers.key()
            ));
            if n % 3 == 0 {
                keys.push(format!("({n}, '{}', 2)", numbers.key()));
            }
        }
        sql.push(format!("INSERT INTO cinstances VALUES {}", applications.join(", ")));
        if !keys.is_empty() {
            sql.push(format!(
                "INSERT INTO application_keys (application_id, value, tenant_id) VALUES {}",
                keys.join(", ")
            ));
        }
    }
    sql.push("ALTER TABLE cinstances AUTO_INCREMENT = 2100000".to_owned());
}

fn triggers(sql: &mut Vec<String>) {
    for table in ["invoices", "services", "cinstances"] {
        sql.push(format!(
            "CREATE DEFINER=`root`@`%` TRIGGER {table}_tenant_id BEFORE INSERT ON {table} FOR EACH ROW BEGIN \
             IF @disable_triggers IS NULL AND NEW.tenant_id IS NULL THEN SET NEW.tenant_id = 99; END IF; END"
        ));
    }
    sql.push(
        "CREATE DEFINER=`root`@`%` PROCEDURE sp_invoices_friendly_id(invoice_id bigint) BEGIN \
         UPDATE invoices SET friendly_id = 'done' WHERE id = invoice_id AND friendly_id = 'fix'; END"
            .to_owned(),
    );
    sql.push(
        "CREATE VIEW live_applications AS SELECT id, application_id FROM cinstances WHERE state = 'live'".to_owned(),
    );
    sql.push("CREATE EVENT keepsake_test_event ON SCHEDULE EVERY 1 YEAR DISABLE DO SET @nothing = 1".to_owned());
}

/// Statements that destroy and change what is there, as an accident would.
pub fn wreck() -> Vec<String> {
    [
        "DROP TABLE application_keys",
        "DROP PROCEDURE sp_invoices_friendly_id",
        "DROP TRIGGER services_tenant_id",
        "UPDATE cinstances SET state = 'suspended'",
        "DELETE FROM annotations",
        "DELETE FROM policies WHERE id > 1",
        "CREATE TABLE left_by_an_attacker (id int)",
        "INSERT INTO left_by_an_attacker VALUES (1)",
    ]
    .map(str::to_owned)
    .to_vec()
}
