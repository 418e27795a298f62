//! How much room there is for a copy beside the live data, where that can be seen from here.

use std::path::Path;

use keepsake_core::error::Result;

use super::server::{Address, Server};

/// Free bytes in the server's data folder; `None` unless the server is on this machine and its folder in this agent's sight.
pub(super) async fn free(server: &mut Server, address: &Address) -> Result<Option<u64>> {
    if !address.is_here() {
        return Ok(None);
    }
    let Some(folder) = server.variable("datadir").await? else { return Ok(None) };
    // A folder of the same name may be of another container: the database tells them apart. Not to be looked into is not to be seen.
    let database = Path::new(&folder).join(&address.database);
    if !tokio::fs::try_exists(&database).await.unwrap_or(false) {
        return Ok(None);
    }
    Ok(rustix::fs::statvfs(&database).ok().map(|stat| stat.f_bavail.saturating_mul(stat.f_frsize)))
}
