//! The names of Backend's keys, as Backend makes them (3scale-facts, sections 3.1 and 3.2).
//!
//! In a name every space is a plus and nothing else is changed; values and members of sets are as they are.

use bytes::Bytes;

/// A name as Backend writes it. Two texts may become one name: `a b` and `a+b`.
pub fn encoded(name: &str) -> Bytes {
    Bytes::from(name.replace(' ', "+"))
}

/// All services.
pub(super) const SERVICES: &str = "services_set";
/// All provider keys.
pub(super) const PROVIDER_KEYS: &str = "provider_keys_set";

/// An attribute of a service.
pub(super) fn service(id: &str, attribute: &str) -> Bytes {
    encoded(&format!("service/id:{id}/{attribute}"))
}

/// `id`, the default service of a provider key, or `ids`, all of them.
pub(super) fn provider(key: &str, attribute: &str) -> Bytes {
    encoded(&format!("service/provider_key:{key}/{attribute}"))
}

/// The applications of a service.
pub(super) fn applications(service: &str) -> Bytes {
    encoded(&format!("service_id:{service}/applications"))
}

/// An attribute of an application.
pub(super) fn application(service: &str, id: &str, attribute: &str) -> Bytes {
    encoded(&format!("application/service_id:{service}/id:{id}/{attribute}"))
}

/// The application of a user key.
pub(super) fn user_key(service: &str, key: &str) -> Bytes {
    encoded(&format!("application/service_id:{service}/key:{key}/id"))
}

/// An attribute of a metric.
pub(super) fn metric(service: &str, id: &str, attribute: &str) -> Bytes {
    encoded(&format!("metric/service_id:{service}/id:{id}/{attribute}"))
}

/// The metric of a name.
pub(super) fn metric_name(service: &str, name: &str) -> Bytes {
    encoded(&format!("metric/service_id:{service}/name:{name}/id"))
}

/// The metrics of a service.
pub(super) fn metrics(service: &str) -> Bytes {
    encoded(&format!("metrics/service_id:{service}/ids"))
}

/// A usage limit.
pub(super) fn usage_limit(service: &str, plan: &str, metric: &str, period: &str) -> Bytes {
    encoded(&format!("usage_limit/service_id:{service}/plan_id:{plan}/metric_id:{metric}/{period}"))
}

/// A service token.
pub(super) fn service_token(token: &str, service: &str) -> Bytes {
    encoded(&format!("service_token/token:{token}/service_id:{service}"))
}

/// The levels at which alerts are made.
pub(super) fn alert_levels(service: &str) -> Bytes {
    encoded(&format!("alerts/service_id:{service}/allowed_set"))
}
