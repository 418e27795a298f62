//! What the tests of the rules are worth: if a rule were off, what all rows expect would differ, and so would what at least one changed value says. This is about the
//! two lists that `rules` compares the product with, and needs no product.

use std::collections::BTreeMap;

use super::rules::{MUTATIONS, base, changes};

type Told = BTreeMap<String, String>;

/// What is told without a rule.
type Off = fn(&mut Told);

fn without(told: &mut Told, begin: &str, end: &str) {
    told.retain(|key, _| !(key.starts_with(begin) && key.ends_with(end)));
}

fn otherwise(told: &mut Told, begin: &str, end: &str, value: impl Fn(&str) -> String) {
    for (key, told) in told.iter_mut() {
        if key.starts_with(begin) && key.ends_with(end) {
            *told = value(told);
        }
    }
}

const APPLICATION: &str = "application/service_id:";
const METRIC: &str = "metric/service_id:";

const RULES: [(&str, Off); 36] = [
    ("a service's provider key", |t| without(t, "service/id:", "/provider_key")),
    ("its backend version", |t| without(t, "service/id:", "/backend_version")),
    ("its referrer filters", |t| without(t, "service/id:", "/referrer_filters_required")),
    ("its referrer filters are a flag", |t| {
        otherwise(
            t,
            "service/id:",
            "/referrer_filters_required",
            |v| if v == "1" { "t".to_owned() } else { v.to_owned() },
        );
    }),
    ("its state", |t| without(t, "service/id:", "/state")),
    ("it may be without a state", |t| otherwise(t, "service/id:", "/state", |v| v.replace('?', ""))),
    ("that of an account that is to be deleted", |t| {
        otherwise(t, "service/id:", "/state", |v| if v == "suspended" { "active?".to_owned() } else { v.to_owned() });
    }),
    ("either of a suspended account", |t| otherwise(t, "service/id:", "/state", |v| v.replace("active|", ""))),
    ("services are listed", |t| without(t, "services_set", "")),
    ("provider keys are listed", |t| without(t, "provider_keys_set", "")),
    ("the services of a provider", |t| without(t, "service/provider_key:", "/ids")),
    ("its default service", |t| without(t, "service/provider_key:", "/id")),
    ("its default service is its own", |t| {
        t.entry("service/provider_key:pk-two/id".to_owned()).or_insert_with(|| "30".to_owned());
    }),
    ("an application's state", |t| without(t, APPLICATION, "/state")),
    ("one that is live is active", |t| otherwise(t, APPLICATION, "/state", |v| v.replace("active", "live"))),
    ("its plan", |t| without(t, APPLICATION, "/plan_id")),
    ("its plan's name", |t| without(t, APPLICATION, "/plan_name")),
    ("where it sends people", |t| without(t, APPLICATION, "/redirect_url")),
    ("applications are listed", |t| without(t, "service_id:", "/applications")),
    ("its user key", |t| t.retain(|key, _| !(key.starts_with(APPLICATION) && key.contains("/key:")))),
    ("whatever its service authenticates by", |t| without(t, "application/service_id:21/key:", "/id")),
    ("a space is a plus", |t| {
        *t = std::mem::take(t).into_iter().map(|(key, value)| (key.replace('+', " "), value)).collect();
    }),
    ("its keys", |t| without(t, APPLICATION, "/keys")),
    ("its referrer filters' list", |t| without(t, APPLICATION, "/referrer_filters")),
    ("a metric's name", |t| without(t, METRIC, "/name")),
    ("its parent", |t| without(t, METRIC, "/parent_id")),
    ("the metric of a name", |t| t.retain(|key, _| !(key.starts_with(METRIC) && key.contains("/name:")))),
    ("metrics are listed", |t| without(t, "metrics/service_id:", "/ids")),
    ("those of backend APIs", |t| t.retain(|key, _| !(key.starts_with(METRIC) && key.contains("/id:50")))),
    ("in every service", |t| t.retain(|key, _| !key.starts_with("metric/service_id:21/id:50"))),
    ("their hits are the product's", |t| without(t, METRIC, "/id:500/parent_id")),
    ("usage limits", |t| without(t, "usage_limit/", "")),
    ("those of customised plans", |t| t.retain(|key, _| !key.contains("/plan_id:201/metric_id:"))),
    ("service tokens", |t| without(t, "service_token/", "")),
    ("one for each service", |t| without(t, "service_token/", "service_id:21")),
    ("alert levels", |t| without(t, "alerts/", "")),
];

/// What is expected when these lines have changed.
fn patched(mut told: Told, lines: &[&str]) -> Told {
    for line in lines {
        let (key, value) = line[2..].split_once(" = ").unwrap_or_else(|| panic!("{line}"));
        if line.starts_with('-') {
            assert_eq!(told.remove(key).as_deref(), Some(value), "{line}");
        } else {
            told.insert(key.to_owned(), value.to_owned());
        }
    }
    told
}

fn off(mut told: Told, rule: Off) -> Told {
    rule(&mut told);
    told
}

#[test]
fn every_rule_is_missed_when_it_is_off() {
    for (name, rule) in RULES {
        assert!(
            !changes(&base(), &off(base(), rule)).is_empty() || name == "its default service is its own",
            "nothing expected shows: {name}"
        );
        let shows = |says: &[&str]| changes(&off(base(), rule), &off(patched(base(), says), rule)) != says;
        assert!(MUTATIONS.iter().any(|(_, _, says)| shows(says)), "no changed value shows: {name}");
    }
}
