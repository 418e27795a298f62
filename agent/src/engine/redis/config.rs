//! Backend's Config in Redis: compared with what System's database says, and changed to be that.
//!
//! Only keys that `keepsake_core::config` knows to be Config are ever looked at or changed: no usage, queue, event, error or unknown key.

mod apply;
mod compare;
mod counters;
mod groups;
mod judge;
mod pace;
mod prints;
mod surplus;

use async_trait::async_trait;
use keepsake_core::error::{Error, Kind, Result};

use super::Redis;
use super::connection::Server;
use super::load::durable::Held;
use crate::engine::Context;
use crate::engine::config_target::{Applied, Changes, Compared, ConfigTarget, Differences, Expected};

#[async_trait]
impl ConfigTarget for Redis {
    async fn compare(
        &self,
        expected: &mut dyn Expected,
        out: &mut dyn Differences,
        keys_per_second: u32,
        cx: &Context,
    ) -> Result<Compared> {
        let server = self.storage().await?;
        Box::pin(compare::compare(&server, &self.scratch, expected, out, keys_per_second, cx)).await
    }

    async fn apply(
        &self,
        changes: &mut dyn Changes,
        keys_per_second: u32,
        durable: bool,
        cx: &Context,
    ) -> Result<Applied> {
        // Nobody loads meanwhile.
        let _loading = self.loading.lock().await;
        let server = self.storage().await?;
        let info = server.info().await?;
        if !info.is("role", "master") {
            return Err(Error::new(
                Kind::Unsupported,
                "the server is a replica, and what is written to it would be lost: point the agent at its master",
            ));
        }
        let unlinks = info.speaks_as() >= (4, 0);
        let applied = Box::pin(apply::apply(&server, changes, keys_per_second, unlinks, cx)).await?;
        if durable && applied.made > 0 {
            super::load::durable::ensure(&server, Held::Unknown).await?;
        }
        Ok(applied)
    }
}

impl Redis {
    /// A connection of its own to Backend's storage.
    async fn storage(&self) -> Result<Server> {
        self.refuse_half_made()?;
        let server = Server::connect(&self.settings).await?;
        let database = match self.settings.redis_storage_database {
            Some(named) => named,
            None => unnamed(&server).await?,
        };
        server.select(database).await?;
        Ok(server)
    }
}

/// The database that is meant when none was named.
///
/// # Errors
/// `Conflict` when another one has a Config: all of it would be missing in this one, or surplus, and a resync would write or delete it.
async fn unnamed(server: &Server) -> Result<u64> {
    let is_in = async |database| server.in_database::<bool>(database, &["EXISTS", "services_set"]).await;
    for (other, ..) in server.info().await?.keyspace() {
        if other != 0 && is_in(other).await? {
            return Err(Error::new(
                Kind::Conflict,
                format!(
                    "database {other} of this server has a Config of a Backend, too, and none was named: start the agent with \
                     --redis-storage-database and the number at the end of REDIS_STORAGE_URL, be it 0"
                ),
            ));
        }
    }
    Ok(0)
}
