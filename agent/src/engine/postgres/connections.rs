//! Who is connected to a database: nobody may be when it is renamed or dropped.

use std::time::Duration;

use keepsake_core::error::{Error, Kind, Result};
use tokio::time::Instant;

use super::session::Session;
use super::surroundings::ident;
use crate::engine::Context;

/// So long connections are waited for that were told to end.
const PATIENCE: Duration = Duration::from_secs(8);
/// Between two looks.
const A_MOMENT: Duration = Duration::from_millis(30);

/// Closes a database to new connections, or opens it. Not even a superuser gets into a closed one.
pub(super) async fn allow(session: &Session, database: &str, allowed: bool) -> Result<()> {
    session.run(&format!("ALTER DATABASE {} WITH ALLOW_CONNECTIONS {allowed}", ident(database))).await
}

/// Ends the connections of these databases, of which there are one or two, and waits until they are gone. The server's own, which no role has, give way by
/// themselves.
///
/// # Errors
/// `Busy`, with the names of those that stay: this role may not end them, or they come back.
pub(super) async fn end(session: &Session, databases: &[&str], cx: &Context) -> Result<()> {
    let (Some(database), Some(other)) = (databases.first(), databases.last()) else { return Ok(()) };
    let both = [*database, *other];
    let until = Instant::now() + PATIENCE;
    loop {
        cx.check()?;
        let rows = session
            .rows(
                "SELECT pid::text, format('process %s of %s (%s)', pid, coalesce(usename::text, 'a role that is gone'), coalesce(nullif(application_name, ''), 'no name')) \
                 FROM pg_stat_activity WHERE datname IN ($1, $2) AND pid <> pg_backend_pid() AND usesysid IS NOT NULL ORDER BY pid",
                &both,
            )
            .await?;
        let mut stay = Vec::new();
        for row in &rows {
            let (pid, name): (String, String) = (row.get(0), row.get(1));
            let told = session.row("SELECT pg_terminate_backend($1::text::int)", &[&pid]).await;
            stay.push(match told {
                Err(e) if e.kind() == Kind::Denied => format!("{name}, which this role may not end"),
                told => told.map(|_| name)?,
            });
        }
        // A transaction that waits for its second phase belongs to no connection and uses the database all the same.
        let prepared =
            session.rows("SELECT gid FROM pg_prepared_xacts WHERE database IN ($1, $2) ORDER BY 1", &both).await?;
        stay.extend(prepared.iter().map(|row| format!("the prepared transaction {:?}", row.get::<_, String>(0))));
        if stay.is_empty() {
            return Ok(());
        }
        if Instant::now() > until {
            return Err(Error::new(
                Kind::Busy,
                format!(
                    "the database {} is still used by {}: stop the applications, end these, or let the agent be a superuser (--postgres-user)",
                    database,
                    stay.join("; ")
                ),
            ));
        }
        tokio::time::sleep(A_MOMENT).await;
    }
}
