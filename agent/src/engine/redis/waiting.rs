//! How many jobs wait in Backend's queues.

use keepsake_core::error::Result;
use keepsake_core::queues::{FAILED, WORKED_OFF, Waiting};

use super::connection::Server;

/// Counts them in every database that has keys: `REDIS_QUEUES_URL` may name any. On a connection that nobody else uses.
pub(super) async fn look(server: &Server) -> Result<Waiting> {
    let mut waiting = Waiting::default();
    let lengths: Vec<[&str; 2]> = WORKED_OFF.iter().chain([&FAILED]).map(|key| ["LLEN", key]).collect();
    let commands: Vec<&[&str]> = lengths.iter().map(<[&str; 2]>::as_slice).collect();
    for (database, ..) in server.info().await?.keyspace() {
        server.select(database).await?;
        // At once: a job that is moved from one to the other meanwhile would be in none.
        let found: Vec<u64> = server.at_once("count the jobs that wait", &commands).await?;
        for (key, n) in WORKED_OFF.iter().zip(&found).filter(|(_, n)| **n > 0) {
            *waiting.queues.entry((*key).to_owned()).or_default() += n;
        }
        waiting.failed += found.get(WORKED_OFF.len()).copied().unwrap_or_default();
    }
    Ok(waiting)
}
