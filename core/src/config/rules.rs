//! The rules from rows of System's database to keys of Backend (3scale-facts, sections 3 and 4), pure and one by one.
//!
//! Each takes one row and gives what it makes. Which rows there are is said where they are asked for; the rules know no SQL.

use bytes::Bytes;

use super::{ConfigEntry, ConfigKind, Must, template};
use crate::error::Result;

/// What is made.
pub type Made = Vec<ConfigEntry>;

/// Whether System treats a text as if it were none.
pub fn is_blank(text: &str) -> bool {
    text.trim().is_empty()
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn texts(kind: ConfigKind, service: &str, key: Bytes, any_of: &[&str], or_absent: bool) -> ConfigEntry {
    let must = Must::Text { any_of: any_of.iter().map(|text| bytes(text)).collect(), or_absent };
    ConfigEntry { kind, service: service.to_owned(), key, must }
}

fn text(kind: ConfigKind, service: &str, key: Bytes, value: &str) -> ConfigEntry {
    texts(kind, service, key, &[value], false)
}

fn member(kind: ConfigKind, service: &str, key: Bytes, member: &str) -> ConfigEntry {
    ConfigEntry { kind, service: service.to_owned(), key, must: Must::Member(bytes(member)) }
}

/// A service, with the provider key of its account.
#[derive(Debug, Clone, Copy)]
pub struct Service<'a> {
    /// `services.id`
    pub id: &'a str,
    /// `accounts.state` of its account.
    pub account_state: &'a str,
    /// The user key of its account's oldest application with the master.
    pub provider_key: &'a str,
    /// `services.backend_version`
    pub backend_version: &'a str,
    /// `services.referrer_filters_required`
    pub referrer_filters_required: bool,
}

/// The attributes of a service. System sets its state apart from all else, and not always: a service without one is active.
pub fn service(row: &Service<'_>) -> Made {
    let key = |attribute| template::service(row.id, attribute);
    let kind = ConfigKind::Service;
    let (states, or_absent): (&[&str], bool) = match row.account_state {
        "scheduled_for_deletion" => (&["suspended"], false),
        "suspended" => (&["active", "suspended"], true),
        _ => (&["active"], true),
    };
    vec![
        text(kind, row.id, key("provider_key"), row.provider_key),
        text(kind, row.id, key("backend_version"), row.backend_version),
        text(kind, row.id, key("referrer_filters_required"), if row.referrer_filters_required { "1" } else { "0" }),
        texts(kind, row.id, key("state"), states, or_absent),
    ]
}

/// A service is one of all.
pub fn listed_service(id: &str) -> Made {
    vec![member(ConfigKind::Global, "", template::encoded(template::SERVICES), id)]
}

/// A provider key is one of all.
pub fn listed_provider_key(key: &str) -> Made {
    vec![member(ConfigKind::Global, "", template::encoded(template::PROVIDER_KEYS), key)]
}

/// A service is one of its provider's.
pub fn provided_service(provider_key: &str, service: &str) -> Made {
    vec![member(ConfigKind::ProviderKey, "", template::provider(provider_key, "ids"), service)]
}

/// A service is what calls with its provider's key and no service mean.
pub fn default_service(provider_key: &str, service: &str) -> Made {
    vec![text(ConfigKind::ProviderKey, "", template::provider(provider_key, "id"), service)]
}

/// An application.
#[derive(Debug, Clone, Copy)]
pub struct Application<'a> {
    /// `cinstances.service_id`
    pub service: &'a str,
    /// `cinstances.application_id`, which is its id in Backend.
    pub id: &'a str,
    /// `cinstances.state`
    pub state: &'a str,
    /// `plans.id`
    pub plan: &'a str,
    /// `plans.name`
    pub plan_name: Option<&'a str>,
    /// `cinstances.redirect_url`
    pub redirect_url: Option<&'a str>,
}

/// The attributes of an application.
pub fn application(row: &Application<'_>) -> Made {
    if row.id.is_empty() {
        return Vec::new();
    }
    let key = |attribute| template::application(row.service, row.id, attribute);
    let attribute = |name, value: &str| text(ConfigKind::Application, row.service, key(name), value);
    let mut made = vec![
        attribute("state", if row.state == "live" { "active" } else { row.state }),
        attribute("plan_id", row.plan),
    ];
    made.extend(row.plan_name.map(|name| attribute("plan_name", name)));
    made.extend(row.redirect_url.map(|url| match url {
        // An empty one is as good as none.
        "" => texts(ConfigKind::Application, row.service, key("redirect_url"), &[""], true),
        url => attribute("redirect_url", url),
    }));
    made
}

/// An application is one of its service's.
pub fn listed_application(service: &str, id: &str) -> Made {
    if id.is_empty() {
        return Vec::new();
    }
    vec![member(ConfigKind::Application, service, template::applications(service), id)]
}

/// The application of a user key. System tells it to Backend whatever the service authenticates by.
pub fn user_key(service: &str, user_key: &str, application: &str) -> Made {
    if is_blank(user_key) || application.is_empty() {
        return Vec::new();
    }
    vec![text(ConfigKind::UserKey, service, template::user_key(service, user_key), application)]
}

/// A key of an application.
pub fn application_key(service: &str, application: &str, value: &str) -> Made {
    if application.is_empty() {
        return Vec::new();
    }
    let key = template::application(service, application, "keys");
    vec![member(ConfigKind::ApplicationKeys, service, key, value)]
}

/// A referrer filter of an application.
pub fn referrer_filter(service: &str, application: &str, value: &str) -> Made {
    if application.is_empty() {
        return Vec::new();
    }
    let key = template::application(service, application, "referrer_filters");
    vec![member(ConfigKind::ReferrerFilters, service, key, value)]
}

/// A metric of a product, or of a backend API in one of the products that use it.
#[derive(Debug, Clone, Copy)]
pub struct Metric<'a> {
    /// The product.
    pub service: &'a str,
    /// `metrics.id`
    pub id: &'a str,
    /// `metrics.system_name`
    pub name: &'a str,
    /// `metrics.parent_id`
    pub parent: Option<&'a str>,
    /// For a metric of a backend API: the product's own metric `hits`, which has no parent.
    pub of_backend_api: Option<Option<&'a str>>,
}

/// The attributes of a metric. The hits of a backend API are counted to those of the product that uses it.
pub fn metric(row: &Metric<'_>) -> Made {
    let parent = match row.of_backend_api {
        Some(hits) if is_hits(row.name) => hits,
        Some(_) | None => row.parent,
    };
    let key = |attribute| template::metric(row.service, row.id, attribute);
    let mut made = vec![text(ConfigKind::Metric, row.service, key("name"), row.name)];
    made.extend(parent.map(|parent| text(ConfigKind::Metric, row.service, key("parent_id"), parent)));
    made
}

/// The metric of a name.
pub fn metric_name(service: &str, id: &str, name: &str) -> Made {
    if name.is_empty() {
        return Vec::new();
    }
    vec![text(ConfigKind::Metric, service, template::metric_name(service, name), id)]
}

/// A metric is one of its service's.
pub fn listed_metric(service: &str, id: &str) -> Made {
    vec![member(ConfigKind::Metric, service, template::metrics(service), id)]
}

fn is_hits(name: &str) -> bool {
    match name.strip_prefix("hits") {
        Some("") => true,
        Some(rest) => rest.strip_prefix('.').is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit())),
        None => false,
    }
}

/// A usage limit of a plan. One of a period that Backend does not know is none.
pub fn usage_limit(service: &str, plan: &str, metric: &str, period: &str, value: &str) -> Made {
    if !["eternity", "year", "month", "week", "day", "hour", "minute"].contains(&period) {
        return Vec::new();
    }
    let key = template::usage_limit(service, plan, metric, period);
    vec![text(ConfigKind::UsageLimit, service, key, value)]
}

/// A service token.
pub fn service_token(token: &str, service: &str) -> Made {
    if token.is_empty() {
        return Vec::new();
    }
    let must = Must::Field { name: Bytes::from_static(b"permissions"), value: Bytes::new() };
    let key = template::service_token(token, service);
    vec![ConfigEntry { kind: ConfigKind::ServiceToken, service: service.to_owned(), key, must }]
}

/// The levels at which a service makes alerts, from `services.notification_settings`.
///
/// # Errors
/// `Unsupported` when these cannot be read.
pub fn alert_levels(service: &str, settings: &str) -> Result<Made> {
    let levels = super::levels::alert_levels(settings)?;
    let key = template::alert_levels(service);
    let one = |level: u16| member(ConfigKind::AlertLevels, service, key.clone(), &level.to_string());
    Ok(levels.into_iter().map(one).collect())
}

#[cfg(test)]
mod tests;
