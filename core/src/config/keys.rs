//! Which keys of Backend's storage are Config, and what each is (3scale-facts, section 3.2).
//!
//! Ids of applications, keys and tokens hold any of `/ : { } * ? [ ]`, so a name is never split at every slash: it is read from its beginning as far as
//! only digits may come, and from its end. What is not understood to the last byte is no Config.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The counter that gives events their ids.
pub const EVENTS_ID: &[u8] = b"events/id";
/// The counter that gives alerts their ids.
pub const ALERTS_CURRENT_ID: &[u8] = b"alerts/current_id";

/// What a key of the Config is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ConfigKind {
    /// An attribute of a service.
    Service,
    /// The services of a provider key.
    ProviderKey,
    /// A list of all services or provider keys.
    Global,
    /// An attribute of an application, or the list of a service's.
    Application,
    /// The application of a user key.
    UserKey,
    /// The keys of an application.
    ApplicationKeys,
    /// The referrer filters of an application.
    ReferrerFilters,
    /// A metric, or the list of a service's.
    Metric,
    /// A usage limit.
    UsageLimit,
    /// A service token.
    ServiceToken,
    /// The levels at which alerts are made.
    AlertLevels,
}

impl ConfigKind {
    /// All kinds.
    pub const ALL: [Self; 11] = [
        Self::Service,
        Self::ProviderKey,
        Self::Global,
        Self::Application,
        Self::UserKey,
        Self::ApplicationKeys,
        Self::ReferrerFilters,
        Self::Metric,
        Self::UsageLimit,
        Self::ServiceToken,
        Self::AlertLevels,
    ];

    /// Its word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Service => "service",
            Self::ProviderKey => "provider-key",
            Self::Global => "global",
            Self::Application => "application",
            Self::UserKey => "user-key",
            Self::ApplicationKeys => "application-keys",
            Self::ReferrerFilters => "referrer-filters",
            Self::Metric => "metric",
            Self::UsageLimit => "usage-limit",
            Self::ServiceToken => "service-token",
            Self::AlertLevels => "alert-levels",
        }
    }
}

impl fmt::Display for ConfigKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The kind of a key of the Config and the service that it belongs to (empty for none); `None` for any other key.
pub fn classify(key: &[u8]) -> Option<(ConfigKind, String)> {
    let nobody = String::new();
    if matches!(key, b"services_set" | b"provider_keys_set") {
        return Some((ConfigKind::Global, nobody));
    }
    if let Some(rest) = key.strip_prefix(b"service/id:") {
        let (service, rest) = id(rest)?;
        let known = [&b"/provider_key"[..], b"/backend_version", b"/referrer_filters_required", b"/state"];
        return known.contains(&rest).then_some((ConfigKind::Service, service));
    }
    if let Some(rest) = key.strip_prefix(b"service/provider_key:") {
        let key = rest.strip_suffix(b"/id").or_else(|| rest.strip_suffix(b"/ids"))?;
        return (!key.is_empty()).then_some((ConfigKind::ProviderKey, nobody));
    }
    if let Some(rest) = key.strip_prefix(b"service_id:") {
        let (service, rest) = id(rest)?;
        return (rest == b"/applications").then_some((ConfigKind::Application, service));
    }
    if let Some(rest) = key.strip_prefix(b"application/service_id:") {
        let (service, rest) = id(rest)?;
        return application(rest).map(|kind| (kind, service));
    }
    if let Some(rest) = key.strip_prefix(b"metric/service_id:") {
        let (service, rest) = id(rest)?;
        return is_metric(rest).then_some((ConfigKind::Metric, service));
    }
    if let Some(rest) = key.strip_prefix(b"metrics/service_id:") {
        let (service, rest) = id(rest)?;
        return (rest == b"/ids").then_some((ConfigKind::Metric, service));
    }
    if let Some(rest) = key.strip_prefix(b"usage_limit/service_id:") {
        let (service, rest) = id(rest)?;
        let (_, rest) = id(rest.strip_prefix(b"/plan_id:")?)?;
        let (_, rest) = id(rest.strip_prefix(b"/metric_id:")?)?;
        let periods = [&b"/eternity"[..], b"/year", b"/month", b"/week", b"/day", b"/hour", b"/minute"];
        return periods.contains(&rest).then_some((ConfigKind::UsageLimit, service));
    }
    if let Some(rest) = key.strip_prefix(b"service_token/token:") {
        let digits = rest.iter().rev().take_while(|b| b.is_ascii_digit()).count();
        let (rest, service) = rest.split_at_checked(rest.len() - digits)?;
        let token = rest.strip_suffix(b"/service_id:")?;
        let (service, _) = id(service)?;
        return (!token.is_empty()).then_some((ConfigKind::ServiceToken, service));
    }
    if let Some(rest) = key.strip_prefix(b"alerts/service_id:") {
        let (service, rest) = id(rest)?;
        return (rest == b"/allowed_set").then_some((ConfigKind::AlertLevels, service));
    }
    None
}

/// The number at the beginning, and the rest.
fn id(text: &[u8]) -> Option<(String, &[u8])> {
    let digits = text.iter().take_while(|b| b.is_ascii_digit()).count();
    let (id, rest) = text.split_at_checked(digits)?;
    let id = std::str::from_utf8(id).ok().filter(|id| !id.is_empty())?;
    Some((id.to_owned(), rest))
}

fn application(rest: &[u8]) -> Option<ConfigKind> {
    if let Some(rest) = rest.strip_prefix(b"/key:") {
        let key = rest.strip_suffix(b"/id")?;
        return (!key.is_empty()).then_some(ConfigKind::UserKey);
    }
    let rest = rest.strip_prefix(b"/id:")?;
    let slash = rest.iter().rposition(|b| *b == b'/').filter(|at| *at > 0)?;
    let kind = match rest.get(slash..)? {
        b"/state" | b"/plan_id" | b"/plan_name" | b"/redirect_url" => ConfigKind::Application,
        b"/keys" => ConfigKind::ApplicationKeys,
        b"/referrer_filters" => ConfigKind::ReferrerFilters,
        _ => return None,
    };
    Some(kind)
}

fn is_metric(rest: &[u8]) -> bool {
    if let Some(rest) = rest.strip_prefix(b"/id:") {
        return id(rest).is_some_and(|(_, rest)| matches!(rest, b"/name" | b"/parent_id"));
    }
    let named = rest.strip_prefix(b"/name:").and_then(|rest| rest.strip_suffix(b"/id"));
    named.is_some_and(|name| !name.is_empty())
}

/// The key for people: of a secret in it only the first signs are shown.
pub fn masked(kind: ConfigKind, key: &[u8]) -> String {
    let shown = key.escape_ascii().to_string();
    let between = match kind {
        ConfigKind::ProviderKey => ("service/provider_key:", "/"),
        ConfigKind::UserKey => ("/key:", "/id"),
        ConfigKind::ServiceToken => ("service_token/token:", "/service_id:"),
        ConfigKind::Service
        | ConfigKind::Global
        | ConfigKind::Application
        | ConfigKind::ApplicationKeys
        | ConfigKind::ReferrerFilters
        | ConfigKind::Metric
        | ConfigKind::UsageLimit
        | ConfigKind::AlertLevels => return shown,
    };
    let hidden = shown.find(between.0).map(|at| at + between.0.len()).zip(shown.rfind(between.1));
    let Some((from, to)) = hidden.filter(|(from, to)| from < to) else { return format!("{kind} (not shown)") };
    let (before, rest) = shown.split_at(from);
    let (secret, after) = rest.split_at(to - from);
    // Of a short one nothing.
    let hint: String = if secret.len() >= 16 { secret.chars().take(4).collect() } else { String::new() };
    format!("{before}{hint}...{after}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is(key: &str, kind: ConfigKind, service: &str) {
        assert_eq!(classify(key.as_bytes()), Some((kind, service.to_owned())), "{key}");
    }

    #[test]
    fn every_template_is_known() {
        for attribute in ["provider_key", "backend_version", "referrer_filters_required", "state"] {
            is(&format!("service/id:7/{attribute}"), ConfigKind::Service, "7");
        }
        is("service/provider_key:abc/id", ConfigKind::ProviderKey, "");
        is("service/provider_key:a/b:c/ids", ConfigKind::ProviderKey, "");
        is("services_set", ConfigKind::Global, "");
        is("service_id:7/applications", ConfigKind::Application, "7");
        for app in ["x", "a/b", "{x}:*?[a]", "state", "x/keys", "/", "/key:u/id"] {
            is(&format!("application/service_id:7/id:{app}/state"), ConfigKind::Application, "7");
            is(&format!("application/service_id:7/id:{app}/keys"), ConfigKind::ApplicationKeys, "7");
            is(&format!("application/service_id:7/id:{app}/referrer_filters"), ConfigKind::ReferrerFilters, "7");
            is(&format!("application/service_id:7/key:{app}/id"), ConfigKind::UserKey, "7");
            is(&format!("service_token/token:{app}/service_id:7"), ConfigKind::ServiceToken, "7");
        }
        is("metric/service_id:7/id:3/parent_id", ConfigKind::Metric, "7");
        is("metric/service_id:7/name:hits.12/id", ConfigKind::Metric, "7");
        is("metrics/service_id:7/ids", ConfigKind::Metric, "7");
        is("usage_limit/service_id:7/plan_id:1/metric_id:2/eternity", ConfigKind::UsageLimit, "7");
        is("alerts/service_id:7/allowed_set", ConfigKind::AlertLevels, "7");
    }

    #[test]
    fn nothing_else_is_config() {
        for key in [
            "",
            "service/id:7/",
            "service/id:7/user_registration_required",
            "service/id:/state",
            "service/id:7x/state",
            "service/provider_key:/id",
            "service_id:7/applications/x",
            "application/service_id:7/id:/state",
            "application/service_id:7/id:x",
            "application/service_id:7/id:x/other",
            "application/service_id:/id:x/state",
            "metric/service_id:7/id:x/name",
            "metrics/service_id:7/idsx",
            "usage_limit/service_id:7/plan_id:1/metric_id:2/decade",
            "usage_limit/service_id:7/plan_id:1/metric_id:2/day/x",
            "service_token/token:x/service_id:",
            "service_token/token:/service_id:7",
            "alerts/service_id:7/app_id:x/50/already_notified",
            "alerts/current_id",
            "events/id",
            "events/queue",
            "errors/service_id:7",
            "stats/{service:7}/cinstances",
            "stats/{service:7}/cinstance:application/service_id:7/id:x/state/metric:1/eternity",
            "liveness-probe",
            "set_with_services_marked_for_deletion",
            "notify/aggregator/batch",
            "daily_traffic/service:7/cinstance:x/20260101",
            "resque:queue:main",
            "oauth_access_tokens/service:7/abc",
            "transactions/service_id:7",
            "Service/id:7/state",
            "services_set ",
        ] {
            assert_eq!(classify(key.as_bytes()), None, "{key}");
        }
    }

    #[test]
    fn secrets_in_names_are_not_shown() {
        let secret = "0123456789abcdef0123456789abcdef";
        for (kind, key) in [
            (ConfigKind::UserKey, format!("application/service_id:7/key:{secret}/id")),
            (ConfigKind::ServiceToken, format!("service_token/token:{secret}/service_id:7")),
            (ConfigKind::ProviderKey, format!("service/provider_key:{secret}/ids")),
        ] {
            let shown = masked(kind, key.as_bytes());
            assert!(shown.contains("0123...") && !shown.contains("01234"), "{shown}");
        }
        assert_eq!(
            masked(ConfigKind::UserKey, b"application/service_id:7/key:short/id"),
            "application/service_id:7/key:.../id"
        );
        assert_eq!(
            masked(ConfigKind::Application, b"application/service_id:7/id:a\nb/state"),
            "application/service_id:7/id:a\\nb/state"
        );
    }
}
