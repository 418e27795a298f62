//! Objects that run as an account: whether ours may make them, and whether that account exists.

use keepsake_core::error::{Error, Kind, Result};
use keepsake_core::format::sql::Summary;

use super::privileges::{self, Privileges};
use super::server::{Family, Server, text};

/// Objects run as their definer; making one that runs as somebody else is a privilege.
pub(super) async fn may_define(server: &mut Server, database: &str, summary: &Summary) -> Result<()> {
    let privileges = privileges::ask(server, database).await?;
    if let Some(other) = summary.definers.iter().find(|d| **d != privileges.account)
        && !privileges.may_set_definer()
    {
        let needed = match server.family {
            Family::Mariadb => "SET USER (or SUPER)",
            Family::Mysql => "SET_ANY_DEFINER (before 8.2 SET_USER_ID, before 8.0 SUPER)",
        };
        return Err(Error::new(
            Kind::Denied,
            format!(
                "the dump has triggers, routines, events or views that run as {other}, and the account {} may not make them: \
                 GRANT {needed} ON *.* to it",
                privileges.account
            ),
        ));
    }
    if let Some(protected) = protected(server, &privileges, summary).await? {
        return Err(Error::new(
            Kind::Denied,
            format!(
                "the dump has triggers, routines, events or views that run as {protected}, which has the privilege SYSTEM_USER and may \
                 be named only by who has it too: GRANT SYSTEM_USER ON *.* to {}, or load as {protected}",
                privileges.account
            ),
        ));
    }
    // Before 8.2 the right to name others was enough.
    if server.family == Family::Mysql
        && server.version >= (8, 2, 0)
        && !privileges.may_set_absent_definer()
        && let Some(absent) = absent(server, summary).await?
        && let Some(gone) = absent.first()
    {
        return Err(Error::new(
            Kind::Denied,
            format!(
                "the dump has triggers, routines, events or views that run as {gone}, an account that this server does not have: \
                 create it, or GRANT ALLOW_NONEXISTENT_DEFINER ON *.* to {}",
                privileges.account
            ),
        ));
    }
    let logs = server.variable("log_bin").await?.as_deref() == Some("ON");
    let trusts = server.variable("log_bin_trust_function_creators").await?.as_deref() == Some("ON");
    if logs && !trusts && summary.triggers + summary.routines > 0 && !privileges.is_super() {
        return Err(Error::new(
            Kind::Denied,
            format!(
                "the server writes a binary log and lets only SUPER make triggers and functions: grant it to {}, or \
                 `SET GLOBAL log_bin_trust_function_creators = 1` for the load",
                privileges.account
            ),
        ));
    }
    Ok(())
}

/// The definers that the server has no account for; `None` when the account may not see.
pub(super) async fn absent<'a>(server: &mut Server, summary: &'a Summary) -> Result<Option<Vec<&'a str>>> {
    let mut absent = Vec::new();
    for definer in &summary.definers {
        let (user, host) = definer.rsplit_once('@').unwrap_or((definer.as_str(), ""));
        let sql = format!("SELECT COUNT(*) FROM mysql.user WHERE user = {} AND host = {}", text(user), text(host));
        match server.number("look for the accounts of definers", &sql).await {
            Ok(0) => absent.push(definer.as_str()),
            Ok(_) => {}
            Err(e) if e.kind() == Kind::Denied => return Ok(None),
            Err(e) => return Err(e),
        }
    }
    Ok(Some(absent))
}

/// A definer that only an account with SYSTEM_USER may name, which ours is not. Seen by who may see the privileges of others.
async fn protected<'a>(server: &mut Server, privileges: &Privileges, summary: &'a Summary) -> Result<Option<&'a str>> {
    if server.family != Family::Mysql || server.version < (8, 0, 16) || privileges.is_system_user() {
        return Ok(None);
    }
    for definer in summary.definers.iter().filter(|d| **d != privileges.account) {
        let (user, host) = definer.rsplit_once('@').unwrap_or((definer.as_str(), ""));
        let sql = format!(
            "SELECT COUNT(*) FROM information_schema.user_privileges WHERE privilege_type = 'SYSTEM_USER' AND grantee = {}",
            text(&format!("'{user}'@'{host}'"))
        );
        if server.number("ask for the privileges of definers", &sql).await? > 0 {
            return Ok(Some(definer));
        }
    }
    Ok(None)
}
