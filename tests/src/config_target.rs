//! Backend's Config beside a real Redis, for driving an engine without an agent around it: what is expected, what differs, what is changed.

use std::collections::VecDeque;

use async_trait::async_trait;
use bytes::Bytes;
use keepsake_agent::engine::config_target::{Changes, Differences, Expected, ExpectedEnd};
use keepsake_core::config::{Change, ConfigEntry, ConfigKind, Counters, Difference, Must};
use keepsake_core::error::{Error, Kind, Result};

use crate::servers::redis::RedisServer;

/// Expected entries in memory.
#[derive(Debug, Clone)]
pub struct Given {
    /// Batches that are still to come.
    pub batches: VecDeque<Vec<ConfigEntry>>,
    /// What the end says; without it the stream is cut.
    pub end: Option<ExpectedEnd>,
}

impl Given {
    /// All of it, in batches of this size, with all kinds named.
    pub fn all(entries: &[ConfigEntry], together: usize) -> Self {
        let end = ExpectedEnd { kinds: ConfigKind::ALL.to_vec(), at_least: Counters::default() };
        Self { batches: entries.chunks(together).map(<[_]>::to_vec).collect(), end: Some(end) }
    }
}

#[async_trait]
impl Expected for Given {
    async fn next(&mut self) -> Result<Option<Vec<ConfigEntry>>> {
        match (self.batches.pop_front(), &self.end) {
            (Some(batch), _) => Ok(Some(batch)),
            (None, Some(_)) => Ok(None),
            (None, None) => Err(Error::new(Kind::Corrupt, "it is cut short, on purpose")),
        }
    }

    fn end(&self) -> Result<&ExpectedEnd> {
        self.end.as_ref().ok_or_else(|| Error::new(Kind::Internal, "there is no end"))
    }
}

/// Differences in memory.
#[derive(Debug, Default)]
pub struct Told(pub Vec<Difference>);

#[async_trait]
impl Differences for Told {
    async fn tell(&mut self, difference: Difference) -> Result<()> {
        self.0.push(difference);
        Ok(())
    }
}

/// Changes in memory.
#[derive(Debug)]
pub struct Wanted {
    /// What is to be done.
    pub changes: Vec<Difference>,
    /// What the counters are raised to.
    pub at_least: Counters,
}

#[async_trait]
impl Changes for Wanted {
    async fn next(&mut self) -> Result<Option<Vec<Difference>>> {
        let changes = std::mem::take(&mut self.changes);
        Ok((!changes.is_empty()).then_some(changes))
    }

    fn at_least(&self) -> Result<Counters> {
        Ok(self.at_least)
    }
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

/// An entry of a text.
pub fn text(kind: ConfigKind, service: &str, key: &str, value: &str) -> ConfigEntry {
    let must = Must::Text { any_of: vec![bytes(value)], or_absent: false };
    ConfigEntry { kind, service: service.to_owned(), key: bytes(&key.replace(' ', "+")), must }
}

/// An entry of a member.
pub fn member(kind: ConfigKind, service: &str, key: &str, member: &str) -> ConfigEntry {
    ConfigEntry {
        kind,
        service: service.to_owned(),
        key: bytes(&key.replace(' ', "+")),
        must: Must::Member(bytes(member)),
    }
}

/// The Config of one service with applications of these ids: something of every kind.
pub fn service(id: u32, applications: &[String]) -> Vec<ConfigEntry> {
    use ConfigKind as K;
    let sid = id.to_string();
    let mut all = Vec::new();
    let provider = format!("provider{id:024}");
    for (attribute, value) in
        [("provider_key", provider.as_str()), ("backend_version", "1"), ("referrer_filters_required", "0")]
    {
        all.push(text(K::Service, &sid, &format!("service/id:{id}/{attribute}"), value));
    }
    let state = Must::Text { any_of: vec![bytes("active")], or_absent: true };
    all.push(ConfigEntry {
        kind: K::Service,
        service: sid.clone(),
        key: bytes(&format!("service/id:{id}/state")),
        must: state,
    });
    all.push(text(K::ProviderKey, "", &format!("service/provider_key:{provider}/id"), &sid));
    all.push(member(K::ProviderKey, "", &format!("service/provider_key:{provider}/ids"), &sid));
    let (name, value) = (bytes("permissions"), Bytes::new());
    let key = bytes(&format!("service_token/token:token{id:027}/service_id:{id}"));
    all.push(ConfigEntry { kind: K::ServiceToken, service: sid.clone(), key, must: Must::Field { name, value } });
    for level in ["50", "100"] {
        all.push(member(K::AlertLevels, &sid, &format!("alerts/service_id:{id}/allowed_set"), level));
    }
    for (metric, name) in [("1", "hits"), ("2", "other metric")] {
        all.push(text(K::Metric, &sid, &format!("metric/service_id:{id}/id:{metric}/name"), name));
        all.push(text(K::Metric, &sid, &format!("metric/service_id:{id}/name:{name}/id"), metric));
    }
    all.push(text(K::Metric, &sid, &format!("metric/service_id:{id}/id:2/parent_id"), "1"));
    all.extend(["1", "2"].map(|m| member(K::Metric, &sid, &format!("metrics/service_id:{id}/ids"), m)));
    all.push(text(
        K::UsageLimit,
        &sid,
        &format!("usage_limit/service_id:{id}/plan_id:1/metric_id:1/day"),
        "9223372036854775807",
    ));
    all.extend(applications.iter().map(|a| member(K::Application, &sid, &format!("service_id:{id}/applications"), a)));
    for (n, application) in applications.iter().enumerate() {
        let base = format!("application/service_id:{id}/id:{application}");
        all.push(text(K::Application, &sid, &format!("{base}/state"), if n % 3 == 0 { "suspended" } else { "active" }));
        all.push(text(K::Application, &sid, &format!("{base}/plan_id"), "1"));
        all.push(text(K::Application, &sid, &format!("{base}/plan_name"), "Basic plan"));
        all.push(text(K::UserKey, &sid, &format!("application/service_id:{id}/key:userkey{n:025}/id"), application));
        if n % 2 == 0 {
            all.push(member(K::ApplicationKeys, &sid, &format!("{base}/keys"), &format!("key one of {n}")));
            all.push(member(K::ApplicationKeys, &sid, &format!("{base}/keys"), &format!("key/two:{n}")));
        }
        if n % 4 == 0 {
            all.push(member(K::ReferrerFilters, &sid, &format!("{base}/referrer_filters"), "*.example.com"));
        }
    }
    all
}

/// The lists of all services and provider keys.
pub fn lists(services: &[u32]) -> Vec<ConfigEntry> {
    let of = |key: &'static str, name: fn(&u32) -> String| {
        services.iter().map(move |id| member(ConfigKind::Global, "", key, &name(id))).collect::<Vec<_>>()
    };
    let mut all = of("services_set", ToString::to_string);
    all.extend(of("provider_keys_set", |id| format!("provider{id:024}")));
    all
}

/// Writes what is expected into a Redis.
pub async fn write(server: &RedisServer, entries: &[ConfigEntry]) {
    let mut connection = server.client().get_multiplexed_async_connection().await.expect("connect");
    for some in entries.chunks(2_000) {
        let mut pipe = redis::pipe();
        for entry in some {
            let key = &entry.key[..];
            match &entry.must {
                Must::Text { any_of, .. } => pipe.set(key, &any_of[0][..]).ignore(),
                Must::Member(member) => pipe.sadd(key, &member[..]).ignore(),
                Must::Field { name, value } => pipe.hset(key, &name[..], &value[..]).ignore(),
            };
        }
        pipe.query_async::<()>(&mut connection).await.expect("write the Config");
    }
}

/// Keys that stand beside the Config and are none of it, each of which looks like something that is.
pub const OTHERS: [&str; 15] = [
    "stats/{service:7}/metric:1/day:20260101",
    "stats/{service:7}/cinstance:application/service_id:7/id:x/state/metric:1/eternity",
    "alerts/service_id:7/app_id:x/50/already_notified",
    "alerts/service_id:7/app_id:x/allowed_set/50/already_notified",
    "application/service_id:7/id:x/something_new",
    "application/service_id:seven/id:x/state",
    "service/id:7/user_registration_required",
    "service/id:7/state/more",
    "oauth_access_tokens/service:7/abc",
    "usage_limit/service_id:7/plan_id:1/metric_id:1/decade",
    "daily_traffic/service:7/cinstance:x/20260101",
    "liveness-probe",
    "events/ping",
    "set_with_services_marked_for_deletion",
    "resque:queue:main",
];

/// Writes those, and the queue and the counters of events.
pub async fn write_others(server: &RedisServer) {
    let mut connection = server.client().get_multiplexed_async_connection().await.expect("connect");
    let mut pipe = redis::pipe();
    for key in OTHERS {
        pipe.set(key, "1").ignore();
    }
    pipe.rpush("errors/service_id:7", "{}").ignore();
    pipe.zadd("events/queue", "{\"id\":17}", 17).ignore();
    pipe.set("events/id", "17").ignore();
    pipe.set("alerts/current_id", "4").ignore();
    pipe.query_async::<()>(&mut connection).await.expect("write other keys");
}

/// A difference in short: kind, what is wrong, key, change.
pub fn short(difference: &Difference) -> String {
    let text = |b: &Bytes| b.escape_ascii().to_string();
    let change = match &difference.change {
        Change::Delete => "delete".to_owned(),
        Change::Set { value, found } => format!("set {} (was {:?})", text(value), found.as_ref().map(text)),
        Change::Add(member) => format!("add {}", text(member)),
        Change::Remove(member) => format!("remove {}", text(member)),
        Change::SetField { name, value } => format!("field {}={}", text(name), text(value)),
        Change::RemoveField(name) => format!("without field {}", text(name)),
        Change::Persist => "persist".to_owned(),
    };
    format!("{} {:?} {}: {change}", difference.kind, difference.wrong, text(&difference.key))
}
