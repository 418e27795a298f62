//! The tables of System that Backend's Config comes from, with at least one row for every rule and one for every way not to be meant by it.
//!
//! For MySQL and PostgreSQL alike. The texts are compared without regard to case, so that an order by them is not the order of their bytes.

/// Which server it is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum For {
    /// MySQL and MariaDB.
    Mysql,
    /// PostgreSQL.
    Postgres,
}

/// Tables as (name, columns); `FLAG` is the server's type for yes and no.
const TABLES: &[(&str, &str)] = &[
    (
        "accounts",
        "id bigint PRIMARY KEY, provider FLAG, master FLAG, provider_account_id bigint, state varchar(255), default_service_id bigint",
    ),
    (
        "services",
        "id bigint PRIMARY KEY, account_id bigint, backend_version varchar(255) NOT NULL, referrer_filters_required FLAG, state varchar(255), \
         notification_settings text",
    ),
    ("service_tokens", "id bigint PRIMARY KEY, service_id bigint, value varchar(255)"),
    (
        "cinstances",
        "id bigint PRIMARY KEY, type varchar(255) NOT NULL, service_id bigint, plan_id bigint NOT NULL, user_account_id bigint, \
         application_id varchar(255), user_key varchar(256), state varchar(255) NOT NULL, redirect_url text",
    ),
    (
        "plans",
        "id bigint PRIMARY KEY, name varchar(255), type varchar(255) NOT NULL, issuer_type varchar(255) NOT NULL, issuer_id bigint NOT NULL, \
         original_id bigint NOT NULL",
    ),
    ("application_keys", "id bigint PRIMARY KEY, application_id bigint NOT NULL, value varchar(255) NOT NULL"),
    ("referrer_filters", "id bigint PRIMARY KEY, application_id bigint NOT NULL, value varchar(255) NOT NULL"),
    (
        "metrics",
        "id bigint PRIMARY KEY, system_name varchar(255), parent_id bigint, owner_type varchar(255), owner_id bigint",
    ),
    ("backend_apis", "id bigint PRIMARY KEY, account_id bigint"),
    ("backend_api_configs", "id bigint PRIMARY KEY, backend_api_id bigint, service_id bigint"),
    (
        "usage_limits",
        "id bigint PRIMARY KEY, metric_id bigint, period varchar(255), value bigint, plan_id bigint, plan_type varchar(255) NOT NULL",
    ),
    ("backend_events", "id bigint PRIMARY KEY, data text"),
    ("alerts", "id bigint PRIMARY KEY, account_id bigint NOT NULL, alert_id bigint NOT NULL"),
];

/// Rows by table.
const ROWS: &[(&str, &str)] = &[
    (
        "accounts",
        // The master; providers approved, suspended, to be deleted, and one that has no application with the master, so no key.
        "(1, TRUE, TRUE, 1, 'approved', 1), (2, TRUE, NULL, 1, 'approved', 20), (3, TRUE, NULL, 1, 'suspended', 30), \
         (4, TRUE, NULL, 1, 'scheduled_for_deletion', NULL), (5, TRUE, NULL, 1, 'approved', 50), \
         (10, FALSE, NULL, 2, 'approved', NULL), (11, FALSE, NULL, 3, 'suspended', NULL), (12, FALSE, NULL, 4, 'approved', NULL), \
         (13, FALSE, NULL, 10, 'approved', 60), (14, NULL, NULL, NULL, NULL, NULL)",
    ),
    (
        "services",
        "(1, 1, '2', FALSE, 'incomplete', NULL), \
         (20, 2, '1', TRUE, 'incomplete', '---\n:web_buyer:\n- 50\n- 100\n:email_provider:\n- 100\n- 42\n'), \
         (21, 2, 'oauth', FALSE, 'deleted', ''), (30, 3, '1', NULL, 'offline', '--- {}\n'), (40, 4, '2', TRUE, 'incomplete', NULL), \
         (50, 5, '1', FALSE, 'incomplete', NULL), (60, 13, '1', FALSE, 'incomplete', NULL), (70, NULL, '1', FALSE, 'incomplete', NULL)",
    ),
    (
        "service_tokens",
        "(1, 20, 'tok/1:service_id:9'), (2, 20, 'tok 2'), (3, 21, 'tok/1:service_id:9'), (4, 40, 'tok4'), (5, 50, 'tok5'), (6, 60, 'tok6'), \
         (7, NULL, 'tok7'), (8, 20, ''), (9, 20, NULL), (10, 999, 'tok10')",
    ),
    (
        "plans",
        "(100, 'Providers', 'ApplicationPlan', 'Service', 1, 0), (200, 'Basic plan', 'ApplicationPlan', 'Service', 20, 0), \
         (201, 'Basic plan (custom)', 'ApplicationPlan', 'Service', 20, 200), (202, NULL, 'ApplicationPlan', 'Service', 20, 0), \
         (205, 'Accounts', 'AccountPlan', 'Account', 20, 0), (206, 'Subscribers', 'ServicePlan', 'Service', 20, 0), \
         (210, 'OAuth', 'ApplicationPlan', 'Service', 21, 0), (300, 'Third', 'ApplicationPlan', 'Service', 30, 0), \
         (400, 'Fourth', 'ApplicationPlan', 'Service', 40, 0), (500, 'Nobody''s', 'ApplicationPlan', 'Service', 999, 0), \
         (600, 'Of no provider', 'ApplicationPlan', 'Service', 60, 0)",
    ),
    (
        "cinstances",
        // Of providers, with the master. The oldest application gives the key; what is older is no application, or the key of another.
        "(900, 'ServiceContract', 1, 206, 2, NULL, 'no-provider-key', 'live', NULL), \
         (1001, 'Cinstance', 1, 100, 2, 'prov2', 'pk-two', 'live', NULL), (1002, 'Cinstance', 1, 100, 3, 'prov3', 'pk three', 'live', NULL), \
         (1003, 'Cinstance', 1, 100, 4, 'prov4', 'pk-four', 'suspended', NULL), (1004, 'Cinstance', 1, 100, 2, 'prov2b', 'pk-two-b', 'live', NULL), \
         (1005, 'Cinstance', 1, 100, 1, 'master', 'pk-master', 'live', NULL), \
         (2001, 'Cinstance', 20, 200, 10, 'a/b:{c}*?[d]', 'uk one', 'live', NULL), (2002, 'Cinstance', 20, 200, 10, 'app2', 'uk/2', 'suspended', NULL), \
         (2003, 'Cinstance', 20, 200, 10, 'app3', 'uk3', 'pending', 'http://x/ y'), (2004, 'Cinstance', 20, 201, 10, 'app4', 'uk4', 'deprecated', NULL), \
         (2005, 'Cinstance', 20, 202, 10, 'app5', 'uk5', 'live', ''), (2006, 'Cinstance', 20, 200, 10, 'app6', NULL, 'live', NULL), \
         (2007, 'Cinstance', 20, 200, 10, 'app7', ' ', 'live', NULL), (2008, 'Cinstance', 20, 200, 10, NULL, 'uk8', 'live', NULL), \
         (2009, 'ServiceContract', 20, 206, 10, 'contract', 'uk9', 'live', NULL), (2010, 'Cinstance', 20, 205, 10, 'app10', 'uk10', 'live', NULL), \
         (2012, 'Cinstance', 999, 200, 10, 'app12', 'uk12', 'live', NULL), (2013, 'Cinstance', 20, 200, 13, 'app13', 'uk13', 'live', NULL), \
         (2014, 'Cinstance', 20, 200, 999, 'app14', 'uk14', 'live', NULL), (2015, 'Cinstance', NULL, 200, 10, 'app15', 'uk15', 'live', NULL), \
         (2101, 'Cinstance', 21, 210, 10, 'oauth1', 'uk21', 'live', NULL), (3001, 'Cinstance', 30, 300, 11, 'susp1', 'uk30', 'live', NULL), \
         (4001, 'Cinstance', 40, 400, 12, 'gone1', 'uk40', 'live', NULL)",
    ),
    (
        // One id twice, alike but for case in between; two user keys that are one name.
        "cinstances",
        "(2020, 'Cinstance', 20, 200, 10, 'TWIN', 'twin k', 'live', NULL), (2021, 'Cinstance', 20, 201, 10, 'twin', 'twin-2', 'live', NULL), \
         (2022, 'Cinstance', 20, 201, 10, 'TWIN', 'twin+k', 'suspended', 'http://twin'), (2023, 'Cinstance', 20, 200, 10, 'other', 'TWIN k', 'live', NULL)",
    ),
    (
        "application_keys",
        "(1, 2001, 'key/1'), (2, 2001, 'key 2'), (3, 2009, 'of a contract'), (4, 3001, 'key4'), (5, 2020, 'a'), (6, 2021, 'b'), (7, 2022, 'c'), (8, 999, 'of nobody')",
    ),
    (
        "referrer_filters",
        "(1, 2001, '*.example.org'), (2, 2001, '10.0.0.* x'), (3, 2009, 'of a contract'), (4, 4001, 'localhost')",
    ),
    ("backend_apis", "(7, 2), (8, 13), (9, 3)"),
    // One product may use a backend API of another provider; of one that is not there, or of nobody, nothing comes.
    ("backend_api_configs", "(1, 7, 20), (2, 7, 21), (3, 7, 40), (4, 7, 999), (5, 8, 20), (6, 9, 20), (7, 77, 20)"),
    (
        "metrics",
        "(1, 'hits', NULL, 'Service', 20), (2, 'search', 1, 'Service', 20), (3, 'hits', NULL, 'Service', 21), (4, 'hits', NULL, 'Service', 1), \
         (5, 'hits', NULL, 'Service', 50), (6, 'hits', NULL, 'Service', 60), (7, 'hits.3', 2, 'Service', 20), \
         (500, 'hits.7', NULL, 'BackendApi', 7), (501, 'get.7', 500, 'BackendApi', 7), (502, 'hits', NULL, 'BackendApi', 9), \
         (600, 'hits.8', NULL, 'BackendApi', 8), (700, 'hits', NULL, NULL, NULL)",
    ),
    (
        "usage_limits",
        "(1, 1, 'day', 100, 200, 'Plan'), (2, 501, 'eternity', 9223372036854775807, 201, 'Plan'), (3, 1, 'decade', 1, 200, 'Plan'), \
         (4, 1, 'day', 1, 206, 'Plan'), (5, 1, 'day', 1, 205, 'Plan'), (6, 2, 'day', 1, 200, 'EndUserPlan'), (7, 1, 'minute', 0, 200, 'Plan'), \
         (8, 5, 'hour', 8, 400, 'Plan'), (9, 1, 'day', 1, 500, 'Plan'), (10, 1, 'day', 1, 600, 'Plan'), (11, NULL, 'day', 1, 200, 'Plan'), \
         (12, 2, 'day', NULL, 200, 'Plan')",
    ),
    ("backend_events", "(17, '{}'), (1299, '{}'), (1000, '{}')"),
    ("alerts", "(1, 2, 7), (2, 3, 900), (3, 2, 8)"),
];

/// The statements that make the tables, in a session of the database.
pub fn tables(server: For) -> Vec<String> {
    let flag = match server {
        For::Mysql => "tinyint(1)",
        For::Postgres => "boolean",
    };
    let table = |(name, columns): &(&str, &str)| format!("CREATE TABLE {name} ({})", columns.replace("FLAG", flag));
    TABLES.iter().map(table).collect()
}

/// The statements that fill them.
pub fn rows() -> Vec<String> {
    ROWS.iter().map(|(table, rows)| format!("INSERT INTO {table} VALUES {rows}")).collect()
}
