//! What was loaded must survive a kill: the AOF is rewritten, or an RDB is saved.

use std::time::Duration;

use keepsake_core::error::{Error, Kind, Result};

use super::super::connection::Server;

/// Waits until what the server holds would survive a kill right now.
///
/// # Errors
/// `Unavailable` when the server cannot write it.
pub(in super::super) async fn ensure(server: &Server) -> Result<()> {
    let mut asked = false;
    loop {
        let info = server.info().await?;
        let working = ["aof_rewrite_in_progress", "aof_rewrite_scheduled", "rdb_bgsave_in_progress"]
            .iter()
            .any(|n| info.is(n, "1"));
        if working {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        }
        let (command, status) = if info.is("aof_enabled", "1") {
            ("BGREWRITEAOF", "aof_last_bgrewrite_status")
        } else {
            ("BGSAVE", "rdb_last_bgsave_status")
        };
        if asked {
            if info.is(status, "ok") {
                return Ok(());
            }
            return Err(Error::new(
                Kind::Unavailable,
                format!(
                    "the data is loaded, but {status} is {:?}: a crash now would lose it. Make room on the server's disk and run {command}",
                    info.get(status)
                ),
            ));
        }
        // Asked for on purpose, though a server with an AOF rewrites it by itself after such a load: its status may be that of an older one.
        match server.ask::<String>(&[command]).await {
            Ok(_) => asked = true,
            Err(e) if e.chain().contains("in progress") => {}
            Err(e) => return Err(e),
        }
    }
}
