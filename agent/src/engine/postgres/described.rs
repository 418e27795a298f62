//! What the server is and whether it can be dumped and loaded, also while a load is half made and nobody gets into the database.

use std::path::{Path, PathBuf};

use keepsake_core::error::{Error, Kind, Result};
use keepsake_core::id::RunId;
use keepsake_core::record::Facts;

use super::session::Session;
use super::{Settings, databases, marked, tools, versions};
use crate::engine::{Description, Staged};

/// Asks server and tools.
pub(super) async fn describe(settings: &Settings) -> Result<Description> {
    let session = match Session::connect(settings).await {
        Ok(session) => session,
        Err(e) => return closed(settings, e).await,
    };
    let loads = states(&session, settings).await?;
    let mut problems = session.problems().await?;
    for (run, _) in loads.iter().filter(|(_, state)| *state == Staged::Committing) {
        problems.push(databases::half_made(*run, &settings.postgres_database));
    }
    let tools = of_tools(settings, &session, &mut problems).await;
    Ok(Description {
        server: session.name(),
        tools,
        size: session.size().await?,
        position: session.position().await?,
        facts: session.facts().await?,
        hold: session.may_hold(),
        undo: undo(settings, &session).await?,
        in_place_is_whole: true,
        in_place_is_told: marked::may_write(&session, settings).await?,
        problems,
        staging_free: free(settings, &session).await?,
        loads,
    })
}

/// For a database that nobody gets into because of a load: told with that load. Otherwise with why it cannot be reached.
async fn closed(settings: &Settings, why: Error) -> Result<Description> {
    if !matches!(why.kind(), Kind::Conflict | Kind::NotFound) {
        return Err(why);
    }
    let Ok(session) = Session::beside(settings).await else { return Err(why) };
    let loads = states(&session, settings).await?;
    if loads.is_empty() {
        return Err(why);
    }
    let mut problems = vec![why.chain()];
    problems.extend(loads.iter().map(|(run, _)| databases::half_made(*run, &settings.postgres_database)));
    let tools = of_tools(settings, &session, &mut problems).await;
    Ok(Description {
        server: session.name(),
        tools,
        size: 0,
        position: session.position().await?,
        facts: Facts::new(),
        hold: Err("the database is closed: a load is half made".to_owned()),
        undo: undo(settings, &session).await?,
        in_place_is_whole: true,
        in_place_is_told: marked::may_write(&session, settings).await?,
        problems,
        staging_free: None,
        loads,
    })
}

async fn states(session: &Session, settings: &Settings) -> Result<Vec<(RunId, Staged)>> {
    let loads = databases::loads(session, &settings.postgres_database).await?;
    Ok(loads.into_iter().map(|(run, load)| (run, load.state())).collect())
}

/// The tools' version lines; what is wrong with them goes to the problems.
async fn of_tools(settings: &Settings, session: &Session, problems: &mut Vec<String>) -> Vec<(String, String)> {
    let mut tools = Vec::new();
    for tool in ["pg_dump", "pg_restore", "psql"] {
        match tools::version(settings, tool).await {
            Ok(version) => tools.push((tool.to_owned(), version)),
            Err(e) => problems.push(e.chain()),
        }
    }
    let dumps = tools.iter().find(|(tool, _)| tool == "pg_dump");
    problems.extend(dumps.and_then(|(_, version)| versions::problem(version, session.major())));
    tools
}

/// Whether a load would be beside the live database, so that it can be undone; if not, why.
async fn undo(settings: &Settings, session: &Session) -> Result<std::result::Result<(), String>> {
    if let Some(why) = databases::cannot_stage(session, settings).await? {
        return Ok(Err(why));
    }
    Ok(match Session::beside(settings).await {
        Ok(_) => Ok(()),
        Err(e) if e.kind().retry() => return Err(e),
        Err(e) => Err(format!(
            "{}: to put one database in the place of another, the role must get into a third (--postgres-maintenance-database)",
            e.chain()
        )),
    })
}

/// Free bytes where the database beside the live one would be; `None` when the server's folder is not to be seen from here.
async fn free(settings: &Settings, session: &Session) -> Result<Option<u64>> {
    if !settings.is_this_machine() {
        return Ok(None);
    }
    // Who may not ask for the folder does not see it either.
    let sql = "SELECT current_setting('data_directory', true), pg_tablespace_location(d.dattablespace) FROM pg_database d WHERE datname = current_database()";
    let Ok(row) = session.row(sql, &[]).await else { return Ok(None) };
    let (Some(data), tablespace): (Option<String>, Option<String>) = (row.get(0), row.get(1)) else { return Ok(None) };
    let data = PathBuf::from(data);
    if !is_its_folder(&data, settings.postgres_port) {
        return Ok(None);
    }
    let at = tablespace.filter(|path| !path.is_empty()).map_or(data, PathBuf::from);
    Ok(rustix::fs::statvfs(&at).ok().map(|stat| stat.f_bavail.saturating_mul(stat.f_frsize)))
}

/// A folder of the same name in another container is not the server's: the server writes its port into its own.
fn is_its_folder(data: &Path, port: u16) -> bool {
    let Ok(written) = std::fs::read_to_string(data.join("postmaster.pid")) else { return false };
    written.lines().nth(3).and_then(|line| line.trim().parse().ok()) == Some(port)
}
