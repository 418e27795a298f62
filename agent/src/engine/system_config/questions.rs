//! What System's database is asked for: rows, and the rule for each (3scale-facts, section 4).
//!
//! Every provider and the master counts, whatever its state: keys of a suspended tenant are never surplus. Rows are in the order of the keys that they
//! make, byte for byte whatever the collation, so that what belongs to one key comes one after another. Of rows that make the same key the youngest comes
//! first: it is what System would have written last. The order is total, so two passes over the same rows tell the same.

use keepsake_core::config::AlertLevels;
use keepsake_core::config::rules::{self, Made, is_blank};
use keepsake_core::error::{Error, Kind, Result};

use super::columns::Columns;

/// Every table that is asked. All of them must stand still while they are.
pub(in crate::engine) const TABLES: [&str; 13] = [
    "accounts",
    "services",
    "service_tokens",
    "cinstances",
    "plans",
    "application_keys",
    "referrer_filters",
    "metrics",
    "backend_apis",
    "backend_api_configs",
    "usage_limits",
    "backend_events",
    "alerts",
];

pub(super) const PROVIDERS: &str = "SELECT COUNT(*) FROM accounts a WHERE a.provider IS TRUE OR a.master IS TRUE";
pub(super) const MASTERS: &str = "SELECT COUNT(*) FROM accounts a WHERE a.master IS TRUE";
pub(super) const LAST_EVENT: &str = "SELECT MAX(e.id) FROM backend_events e";
pub(super) const LAST_ALERT: &str = "SELECT MAX(a.alert_id) FROM alerts a";

/// Services of providers, each with its account.
const SERVICES: &str = "services s JOIN accounts a ON a.id = s.account_id AND (a.provider IS TRUE OR a.master IS TRUE)";
/// The same, if the provider has a key: that of its oldest application with the master.
const KEYED: &str = "services s JOIN accounts a ON a.id = s.account_id AND (a.provider IS TRUE OR a.master IS TRUE) \
     JOIN cinstances k ON k.id = (SELECT MIN(o.id) FROM cinstances o WHERE o.type = 'Cinstance' AND o.user_account_id = a.id)";
/// Applications of providers' buyers, and of providers with the master.
const APPLICATIONS: &str = "cinstances c JOIN services s ON s.id = c.service_id JOIN accounts b ON b.id = c.user_account_id \
     LEFT JOIN accounts p ON p.id = b.provider_account_id";
/// Which of these.
const APPLICATION: &str =
    "c.type = 'Cinstance' AND (b.provider IS TRUE OR b.master IS TRUE OR p.provider IS TRUE OR p.master IS TRUE)";

/// Where two servers speak differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::engine) enum Dialect {
    /// MySQL and MariaDB.
    Mysql,
    /// PostgreSQL.
    Postgres,
}

/// From a row to entries.
pub(super) type Rule = fn(&Columns) -> Result<Made>;

/// A question.
#[derive(Debug)]
pub(super) struct Question {
    /// What it asks for, for people.
    pub(super) about: &'static str,
    pub(super) sql: String,
    pub(super) rule: Rule,
    /// Without an answer the database cannot be what it is taken for.
    pub(super) must_answer: bool,
}

impl Dialect {
    /// The bytes of a text as it stands in a key's name, to sort by.
    fn name(self, text: &str) -> String {
        match self {
            Self::Mysql => format!("CAST(REPLACE({text}, ' ', '+') AS BINARY)"),
            Self::Postgres => format!("convert_to(REPLACE({text}, ' ', '+'), 'UTF8')"),
        }
    }
}

/// All of them.
pub(super) fn all(dialect: Dialect, levels: AlertLevels) -> Vec<Question> {
    let mut all = Vec::new();
    services(dialect, levels, &mut all);
    applications(dialect, &mut all);
    metrics(dialect, &mut all);
    all
}

fn question(about: &'static str, sql: String, rule: Rule) -> Question {
    Question { about, sql, rule, must_answer: false }
}

fn services(dialect: Dialect, levels: AlertLevels, all: &mut Vec<Question>) {
    let key = dialect.name("k.user_key");
    let attributes = format!(
        "SELECT s.id, a.state, k.user_key, s.backend_version, CASE WHEN s.referrer_filters_required IS TRUE THEN 1 ELSE 0 END FROM {KEYED} ORDER BY s.id"
    );
    let service: Rule = |c| {
        Ok(rules::service(&rules::Service {
            id: c.text(0)?,
            account_state: c.or_empty(1)?,
            provider_key: provider_key(c, 2)?,
            backend_version: c.text(3)?,
            referrer_filters_required: c.flag(4)?,
        }))
    };
    all.push(Question { must_answer: true, ..question("services", attributes, service) });
    all.push(question("the list of services", format!("SELECT s.id FROM {KEYED} ORDER BY s.id"), |c| {
        Ok(rules::listed_service(c.text(0)?))
    }));
    all.push(question("provider keys", format!("SELECT k.user_key FROM {KEYED} ORDER BY {key}"), |c| {
        Ok(rules::listed_provider_key(provider_key(c, 0)?))
    }));
    all.push(question(
        "the services of provider keys",
        format!("SELECT k.user_key, s.id FROM {KEYED} ORDER BY {key}, s.id"),
        |c| Ok(rules::provided_service(provider_key(c, 0)?, c.text(1)?)),
    ));
    all.push(question(
        "default services",
        format!("SELECT k.user_key, s.id FROM {KEYED} WHERE s.id = a.default_service_id ORDER BY {key}, s.id"),
        |c| Ok(rules::default_service(provider_key(c, 0)?, c.text(1)?)),
    ));
    let keyed = KEYED.replacen("services s", "service_tokens t JOIN services s ON s.id = t.service_id", 1);
    all.push(question(
        "service tokens",
        format!("SELECT t.value, s.id FROM {keyed} ORDER BY {}, s.id", dialect.name("t.value")),
        |c| Ok(rules::service_token(c.or_empty(0)?, c.text(1)?)),
    ));
    if levels == AlertLevels::Expected {
        let settings = format!("SELECT s.id, s.notification_settings FROM {KEYED} ORDER BY s.id");
        all.push(question("alert levels", settings, |c| rules::alert_levels(c.text(0)?, c.or_empty(1)?)));
    }
}

/// The key of a provider.
///
/// # Errors
/// `Corrupt` when it is blank: left out, all that Backend has of the provider would be surplus.
fn provider_key(c: &Columns, n: usize) -> Result<&str> {
    let key = c.or_empty(n)?;
    if is_blank(key) {
        return Err(Error::new(
            Kind::Corrupt,
            "the oldest application that some provider has with the master has no user key, so what Backend must have of its services is not known: \
             give it one in System",
        ));
    }
    Ok(key)
}

fn applications(dialect: Dialect, all: &mut Vec<Question>) {
    let (id, key) = (dialect.name("c.application_id"), dialect.name("c.user_key"));
    // Only an application with a plan of applications has attributes.
    let planned =
        format!("{APPLICATIONS} JOIN plans l ON l.id = c.plan_id AND l.type = 'ApplicationPlan' WHERE {APPLICATION}");
    all.push(question(
        "applications",
        format!(
            "SELECT c.service_id, c.application_id, c.state, l.id, l.name, c.redirect_url FROM {planned} ORDER BY c.service_id, {id}, c.id DESC"
        ),
        |c| {
            Ok(rules::application(&rules::Application {
                service: c.text(0)?,
                id: c.or_empty(1)?,
                state: c.text(2)?,
                plan: c.text(3)?,
                plan_name: c.opt(4)?,
                redirect_url: c.opt(5)?,
            }))
        },
    ));
    all.push(question(
        "the lists of applications",
        format!("SELECT c.service_id, c.application_id FROM {planned} ORDER BY c.service_id, {id}"),
        |c| Ok(rules::listed_application(c.text(0)?, c.or_empty(1)?)),
    ));
    all.push(question(
        "user keys",
        format!(
            "SELECT c.service_id, c.user_key, c.application_id FROM {APPLICATIONS} WHERE {APPLICATION} AND c.user_key <> '' \
             ORDER BY c.service_id, {key}, c.id DESC"
        ),
        |c| Ok(rules::user_key(c.text(0)?, c.or_empty(1)?, c.or_empty(2)?)),
    ));
    let more = |table: &str| {
        format!(
            "SELECT c.service_id, c.application_id, v.value FROM {table} v JOIN {} WHERE {APPLICATION} ORDER BY c.service_id, {id}",
            APPLICATIONS.replacen("cinstances c", "cinstances c ON c.id = v.application_id", 1)
        )
    };
    all.push(question("keys of applications", more("application_keys"), |c| {
        Ok(rules::application_key(c.text(0)?, c.or_empty(1)?, c.text(2)?))
    }));
    all.push(question("referrer filters", more("referrer_filters"), |c| {
        Ok(rules::referrer_filter(c.text(0)?, c.or_empty(1)?, c.text(2)?))
    }));
}

fn metrics(dialect: Dialect, all: &mut Vec<Question>) {
    // Of products, and of backend APIs once for every product that uses them; there the hits of the product are named, too.
    let metrics = format!(
        "(SELECT m.owner_id AS service, m.id AS metric, m.system_name AS name, m.parent_id AS parent, 0 AS of_api, NULLIF(m.id, m.id) AS hits \
         FROM {SERVICES} JOIN metrics m ON m.owner_type = 'Service' AND m.owner_id = s.id \
         UNION ALL SELECT f.service_id, m.id, m.system_name, m.parent_id, 1, h.id FROM backend_api_configs f JOIN services s ON s.id = f.service_id \
         JOIN backend_apis x ON x.id = f.backend_api_id JOIN accounts a ON a.id = x.account_id AND (a.provider IS TRUE OR a.master IS TRUE) \
         JOIN metrics m ON m.owner_type = 'BackendApi' AND m.owner_id = x.id \
         LEFT JOIN metrics h ON h.owner_type = 'Service' AND h.owner_id = s.id AND h.system_name = 'hits' AND h.parent_id IS NULL) u"
    );
    all.push(question(
        "metrics",
        format!(
            "SELECT u.service, u.metric, u.name, u.parent, u.of_api, u.hits FROM {metrics} ORDER BY u.service, u.metric"
        ),
        |c| {
            Ok(rules::metric(&rules::Metric {
                service: c.text(0)?,
                id: c.text(1)?,
                name: c.or_empty(2)?,
                parent: c.opt(3)?,
                of_backend_api: if c.flag(4)? { Some(c.opt(5)?) } else { None },
            }))
        },
    ));
    all.push(question(
        "names of metrics",
        format!(
            "SELECT u.service, u.metric, u.name FROM {metrics} ORDER BY u.service, {}, u.metric DESC",
            dialect.name("u.name")
        ),
        |c| Ok(rules::metric_name(c.text(0)?, c.text(1)?, c.or_empty(2)?)),
    ));
    all.push(question(
        "the lists of metrics",
        format!("SELECT u.service, u.metric FROM {metrics} ORDER BY u.service, u.metric"),
        |c| Ok(rules::listed_metric(c.text(0)?, c.text(1)?)),
    ));
    all.push(question(
        "usage limits",
        format!(
            "SELECT l.issuer_id, l.id, u.metric_id, u.period, u.value FROM {SERVICES} JOIN plans l ON l.issuer_id = s.id AND l.issuer_type = 'Service' \
             AND l.type = 'ApplicationPlan' JOIN usage_limits u ON u.plan_id = l.id AND u.plan_type = 'Plan' \
             WHERE u.metric_id IS NOT NULL AND u.value IS NOT NULL ORDER BY l.issuer_id, l.id, u.metric_id, u.period, u.id DESC"
        ),
        |c| Ok(rules::usage_limit(c.text(0)?, c.text(1)?, c.text(2)?, c.or_empty(3)?, c.text(4)?)),
    ));
}
