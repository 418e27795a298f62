//! Backend's Config in the fake world: one word, which is what System's database was filled with, or is not.

use async_trait::async_trait;
use bytes::Bytes;
use keepsake_coordinator::fleet::config::{ConfigChanged, ConfigChanges, ConfigCompared, ConfigOrder, Differences};
use keepsake_core::config::{Change, ConfigKind, Counters, Difference, Wrong};
use keepsake_core::error::Result;
use keepsake_core::id::Component;

use super::FakeWorld;

impl FakeWorld {
    pub(super) async fn compare(&self, order: &ConfigOrder<'_>, found: &mut dyn Differences) -> Result<ConfigCompared> {
        let step = order.key.step.as_str();
        if order.of_a_run {
            self.admit(order.backend, &order.key.run)?;
        }
        self.look(step)?;
        let value = self.with(order.system, |store| store.base().to_owned());
        let there = self.with(order.backend, |store| store.config.clone());
        if value != there {
            let change = Change::Set { value: Bytes::from(value), found: Some(Bytes::from(there)) };
            let key = Bytes::from_static(b"service/id:1/state");
            let (kind, service, wrong) = (ConfigKind::Service, "1".to_owned(), Wrong::Different);
            found.take(vec![Difference { kind, service, key, wrong, change }]).await?;
        }
        self.leave(step)?;
        Ok(ConfigCompared { keys: 1, scanned: 1, ..ConfigCompared::default() })
    }

    pub(super) fn change(&self, order: &ConfigOrder<'_>) -> Result<Box<dyn ConfigChanges>> {
        self.admit(order.backend, &order.key.run)?;
        self.must_be_announced(order.key.step.as_str(), order.key.step.as_str());
        Ok(Box::new(FakeChanges { world: self.clone(), backend: order.backend.clone(), made: 0 }))
    }
}

struct FakeChanges {
    world: FakeWorld,
    backend: Component,
    made: u64,
}

#[async_trait]
impl ConfigChanges for FakeChanges {
    async fn make(&mut self, some: Vec<Difference>) -> Result<()> {
        if !self.world.lock().live {
            self.world.lock().replace(&self.backend, "a change of the Config");
        }
        for difference in some {
            let Change::Set { value, .. } = difference.change else { panic!("{difference:?}") };
            self.world.with(&self.backend, |store| store.config = String::from_utf8(value.to_vec()).expect("a word"));
            self.made += 1;
        }
        Ok(())
    }

    async fn finish(self: Box<Self>, _: Counters) -> Result<ConfigChanged> {
        Ok(ConfigChanged { made: self.made, ..ConfigChanged::default() })
    }
}
