//! What an installation holds, so that two moments can be compared.

use std::collections::BTreeMap;

use super::Installation;
use crate::manifest::Manifest;

/// Everything that a restore must bring back.
#[derive(Debug, Clone)]
pub struct State {
    stores: BTreeMap<&'static str, BTreeMap<String, String>>,
    files: Manifest,
}

impl State {
    /// Asks all servers and reads the tree.
    pub async fn of(installation: &Installation) -> Self {
        let mut mysql = installation.mysql.checksums("system").await;
        mysql.extend(installation.mysql.schema_digest("system").await);
        let mut zync = installation.zync.digests("zync_production").await;
        zync.insert("schema".to_owned(), installation.zync.schema("zync_production"));
        // Its rows name live processes; they are not dumped.
        zync.remove("public.que_lockers");
        let mut backend = BTreeMap::new();
        let mut system_redis = BTreeMap::new();
        for db in 0..16 {
            // Counters that must only rise are no part of what is compared, nor is the operator's probe.
            let noise = ["events/id", "alerts/current_id", "liveness-probe"];
            let named = |all: BTreeMap<Vec<u8>, String>| {
                all.into_iter().map(move |(key, d)| (format!("{db} {}", key.escape_ascii()), d))
            };
            backend.extend(named(installation.backend.digests(db, &noise).await));
            system_redis.extend(named(installation.system_redis.digests(db, &noise).await));
        }
        let stores = [
            ("system-mysql", mysql),
            ("backend-redis", backend),
            ("system-redis", system_redis),
            ("zync-database", zync),
        ];
        Self { stores: stores.into(), files: Manifest::of(&installation.storage) }
    }

    /// Without what a load keeps beside the files.
    #[must_use]
    pub fn without_what_is_kept(mut self) -> Self {
        self.files.0.retain(|path, _| !path.starts_with(b".keepsake-"));
        self
    }

    /// How a store differs from another moment; empty if it does not.
    pub fn differences(&self, expected: &Self, component: &str) -> Vec<String> {
        if component == "system-storage" {
            return self.files.differences(&expected.files, false);
        }
        let (now, want) = (&self.stores[component], &expected.stores[component]);
        let names: std::collections::BTreeSet<_> = now.keys().chain(want.keys()).collect();
        names
            .into_iter()
            .filter(|name| now.get(*name) != want.get(*name))
            .map(|name| format!("{name}: {:?} instead of {:?}", now.get(name), want.get(name)))
            .collect()
    }

    /// How many things of a store are compared.
    pub fn size(&self, component: &str) -> usize {
        if component == "system-storage" { self.files.0.len() } else { self.stores[component].len() }
    }

    /// Every store is as it was.
    pub fn assert_is(&self, expected: &Self, what: &str) {
        for component in super::COMPONENTS {
            let differences = self.differences(expected, component);
            assert!(differences.is_empty(), "{what}: {component} differs:\n{}", differences.join("\n"));
        }
    }
}
