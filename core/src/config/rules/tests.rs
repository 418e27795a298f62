//! Every rule, with the keys as they stand in Backend.

use super::*;

/// `key=value`; `a|b` for either, `?` at the end where it may be absent; `key+member`; `key{field=value}`.
fn shown(made: &Made) -> Vec<String> {
    let utf8 = |b: &Bytes| String::from_utf8(b.to_vec()).unwrap();
    let one = |entry: &ConfigEntry| {
        let key = utf8(&entry.key);
        assert_eq!(super::super::classify(&entry.key), Some((entry.kind, entry.service.clone())), "{key}");
        match &entry.must {
            Must::Text { any_of, or_absent } => {
                let any: Vec<_> = any_of.iter().map(utf8).collect();
                format!("{key}={}{}", any.join("|"), if *or_absent { "?" } else { "" })
            }
            Must::Member(member) => format!("{key}+{}", utf8(member)),
            Must::Field { name, value } => format!("{key}{{{}={}}}", utf8(name), utf8(value)),
        }
    };
    made.iter().map(one).collect()
}

const SERVICE: Service<'_> = Service {
    id: "7",
    account_state: "approved",
    provider_key: "pk",
    backend_version: "oauth",
    referrer_filters_required: false,
};

#[test]
fn services() {
    assert_eq!(
        shown(&service(&SERVICE)),
        [
            "service/id:7/provider_key=pk",
            "service/id:7/backend_version=oauth",
            "service/id:7/referrer_filters_required=0",
            "service/id:7/state=active?"
        ]
    );
    let required = Service { referrer_filters_required: true, ..SERVICE };
    assert_eq!(shown(&service(&required))[2], "service/id:7/referrer_filters_required=1");
    for (account, state) in [
        ("scheduled_for_deletion", "suspended"),
        ("suspended", "active|suspended?"),
        ("approved", "active?"),
        ("pending", "active?"),
        ("", "active?"),
    ] {
        let row = Service { account_state: account, ..SERVICE };
        assert_eq!(shown(&service(&row))[3], format!("service/id:7/state={state}"), "{account}");
    }
    assert_eq!(shown(&listed_service("7")), ["services_set+7"]);
    assert_eq!(shown(&listed_provider_key("p k")), ["provider_keys_set+p k"]);
    assert_eq!(shown(&provided_service("p k", "7")), ["service/provider_key:p+k/ids+7"]);
    assert_eq!(shown(&default_service("pk", "7")), ["service/provider_key:pk/id=7"]);
}

#[test]
fn applications() {
    let row = Application {
        service: "7",
        id: "a/b:{c}",
        state: "live",
        plan: "3",
        plan_name: Some("Gold plan"),
        redirect_url: None,
    };
    let key = "application/service_id:7/id:a/b:{c}";
    assert_eq!(
        shown(&application(&row)),
        [format!("{key}/state=active"), format!("{key}/plan_id=3"), format!("{key}/plan_name=Gold plan")]
    );
    for state in ["suspended", "pending", "deprecated"] {
        assert_eq!(shown(&application(&Application { state, ..row }))[0], format!("{key}/state={state}"));
    }
    let full = application(&Application { redirect_url: Some("http://x/a b"), ..row });
    assert_eq!(shown(&full)[3], format!("{key}/redirect_url=http://x/a b"));
    assert_eq!(shown(&application(&Application { redirect_url: Some(""), ..row }))[3], format!("{key}/redirect_url=?"));
    assert_eq!(application(&Application { plan_name: None, ..row }).len(), 2);
    assert_eq!(application(&Application { id: "", ..row }), []);
    assert_eq!(shown(&listed_application("7", "a b")), ["service_id:7/applications+a b"]);
    assert_eq!(shown(&user_key("7", "u k", "a b")), ["application/service_id:7/key:u+k/id=a b"]);
    assert_eq!(user_key("7", " ", "a"), []);
    assert_eq!(shown(&application_key("7", "a b", "k v")), ["application/service_id:7/id:a+b/keys+k v"]);
    assert_eq!(shown(&referrer_filter("7", "a b", "*.x")), ["application/service_id:7/id:a+b/referrer_filters+*.x"]);
}

#[test]
fn metrics() {
    let row = Metric { service: "7", id: "5", name: "search", parent: Some("4"), of_backend_api: None };
    let shows = |row: &Metric<'_>| shown(&metric(row));
    assert_eq!(shows(&row), ["metric/service_id:7/id:5/name=search", "metric/service_id:7/id:5/parent_id=4"]);
    assert_eq!(shows(&Metric { parent: None, ..row }), ["metric/service_id:7/id:5/name=search"]);
    let of_api = Metric { of_backend_api: Some(Some("1")), ..row };
    assert_eq!(shows(&of_api)[1], "metric/service_id:7/id:5/parent_id=4", "a method of a backend API keeps its parent");
    for hits in ["hits", "hits.12"] {
        let row = Metric { name: hits, parent: None, ..of_api };
        assert_eq!(shows(&row)[1], "metric/service_id:7/id:5/parent_id=1", "{hits}");
        // The service has none to count to.
        assert_eq!(shows(&Metric { of_backend_api: Some(None), parent: Some("4"), ..row }).len(), 1);
        // A product's own has the parent that it has.
        assert_eq!(shows(&Metric { of_backend_api: None, ..row }).len(), 1);
    }
    for other in ["hits.", "hits.x", "hits2", "hitss.1", "xhits.1", "hits.1.2"] {
        assert_eq!(shows(&Metric { name: other, ..of_api })[1], "metric/service_id:7/id:5/parent_id=4", "{other}");
    }
    assert_eq!(shown(&metric_name("7", "5", "hits.12")), ["metric/service_id:7/name:hits.12/id=5"]);
    assert_eq!(shown(&listed_metric("7", "5")), ["metrics/service_id:7/ids+5"]);
}

#[test]
fn limits_tokens_levels() {
    for period in ["eternity", "year", "month", "week", "day", "hour", "minute"] {
        let made = usage_limit("7", "3", "5", period, "9223372036854775807");
        assert_eq!(
            shown(&made),
            [format!("usage_limit/service_id:7/plan_id:3/metric_id:5/{period}=9223372036854775807")]
        );
    }
    assert_eq!(usage_limit("7", "3", "5", "decade", "1"), []);
    assert_eq!(shown(&service_token("t/o:k", "7")), ["service_token/token:t/o:k/service_id:7{permissions=}"]);
    assert_eq!(service_token("", "7"), []);
    let levels = alert_levels("7", "---\n:web_buyer:\n- 100\n- 50\n:email_buyer:\n- 50\n").unwrap();
    assert_eq!(shown(&levels), ["alerts/service_id:7/allowed_set+50", "alerts/service_id:7/allowed_set+100"]);
}
