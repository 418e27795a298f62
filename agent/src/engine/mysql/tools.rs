//! The dump tool and the client: which are here, of which family, and how they are called.

use keepsake_core::error::{Error, Kind, Result};
use keepsake_core::secret::Secret;

use super::server::{Address, Family, text};
use super::stderr;
use crate::process::{Tool, Toolbox};

/// Names under which each family has its tools, the newer name first.
const DUMP: [(&str, &str); 2] = [("mariadb-dump", "mysqldump"), ("mysqldump", "mariadb-dump")];
const CLIENT: [(&str, &str); 2] = [("mariadb", "mysql"), ("mysql", "mariadb")];
/// The largest that both families take.
const MAX_PACKET: &str = "--max-allowed-packet=1073741824";

/// What the flags say of the tools.
#[derive(Debug, Clone, Default)]
pub(super) struct Programs {
    /// The dump tool, if one was asked for.
    pub(super) dump: Option<String>,
    /// The client, if one was asked for.
    pub(super) client: Option<String>,
    /// Where they are and what they need.
    pub(super) toolbox: Toolbox,
}

/// A tool that was found and asked for its version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    /// The program.
    pub(super) program: String,
    /// Its version line.
    pub(super) version: String,
    /// Whose it is.
    pub(super) family: Family,
    /// Its help text, which tells what it can do.
    help: String,
    toolbox: Toolbox,
}

impl Found {
    fn has(&self, option: &str) -> bool {
        self.help.contains(option)
    }
}

/// Finds the dump tool: the one asked for, or that of the server's family, or the other's.
///
/// # Errors
/// `NotFound`, with what to install.
pub(super) async fn dump_tool(programs: &Programs, server: Family) -> Result<Found> {
    find("dump tool", "--mysql-dump-program", programs.dump.as_deref(), names(DUMP, server), &programs.toolbox).await
}

/// Finds the client in the same way.
///
/// # Errors
/// As [`dump_tool`].
pub(super) async fn client(programs: &Programs, server: Family) -> Result<Found> {
    find("client", "--mysql-program", programs.client.as_deref(), names(CLIENT, server), &programs.toolbox).await
}

fn names(pairs: [(&'static str, &'static str); 2], server: Family) -> (&'static str, &'static str) {
    let [mariadb, mysql] = pairs;
    if server == Family::Mariadb { mariadb } else { mysql }
}

async fn find(what: &str, flag: &str, asked: Option<&str>, names: (&str, &str), toolbox: &Toolbox) -> Result<Found> {
    let names = asked.map_or_else(|| vec![names.0, names.1], |one| vec![one]);
    for program in &names {
        match Tool::of(toolbox, program).arg("--version").output().await {
            Ok(version) => {
                let help = Tool::of(toolbox, program).args(["--no-defaults", "--help"]).output().await?;
                let family = Family::of(&version);
                let version = version.lines().next().unwrap_or_default().trim().to_owned();
                let toolbox = toolbox.clone();
                return Ok(Found { program: (*program).to_owned(), version, family, help, toolbox });
            }
            Err(e) if e.kind() == Kind::NotFound => {}
            Err(e) => return Err(e.context(format!("ask the {what} {program} for its version"))),
        }
    }
    Err(Error::new(
        Kind::NotFound,
        format!(
            "the {what} ({}) is {}: install it beside the agent, name it with {flag}, or say where it is with --tool-dir",
            names.join(" or "),
            toolbox.missing()
        ),
    ))
}

/// What one run of the dump tool is to write.
#[derive(Debug, Clone, Copy)]
pub(super) enum What<'a> {
    /// Everything.
    Whole,
    /// These tables and sequences, and nothing that runs by itself.
    Tables(&'a [String]),
    /// All tables but these and these views, and nothing that runs by itself. Tools ask for each table that they are given by name before they write
    /// anything; for those that they are to leave out they do not.
    AllBut(&'a [&'a String]),
    /// Triggers, routines and events.
    Objects,
    /// These views.
    Views(&'a [String]),
}

/// The dump tool with everything that a dump needs.
pub(super) fn dump(found: &Found, address: &Address, password: Option<&Secret>, what: What<'_>) -> Tool {
    // Without these three they are lost without a word.
    const OBJECTS: [&str; 3] = ["--routines", "--triggers", "--events"];
    let mut tool = connected(found, address, password).args([
        // One instant for all InnoDB tables, and no table in the tool's memory.
        "--single-transaction",
        "--quick",
        // A narrower connection turns characters of four bytes into question marks.
        "--default-character-set=utf8mb4",
        "--hex-blob",
        // Asks for no privilege on files.
        "--no-tablespaces",
        MAX_PACKET,
    ]);
    tool = match what {
        What::Whole => tool.args(OBJECTS),
        // Loaded beside others: a locked table would have those wait that a foreign key leads from or to.
        What::Tables(_) | What::AllBut(_) => tool.args(["--skip-triggers", "--skip-add-locks"]),
        What::Objects => tool.args(OBJECTS).args(["--no-data", "--no-create-info"]),
        What::Views(_) => tool.args(["--skip-triggers", "--no-data"]),
    };
    if found.has("--set-gtid-purged") {
        tool = tool.arg("--set-gtid-purged=OFF");
    }
    if found.has("--column-statistics") {
        // MariaDB has no table of them, and they are not data.
        tool = tool.arg("--column-statistics=0");
    }
    if let What::AllBut(names) = what {
        tool = tool.args(names.iter().map(|name| format!("--ignore-table={}.{name}", address.database)));
    }
    tool = tool.args(["--", &address.database]);
    match what {
        What::Tables(names) | What::Views(names) => tool.args(names),
        What::Whole | What::Objects | What::AllBut(_) => tool,
    }
    .read_stdout()
}

/// The client in a database, reading statements and stopping at the first that fails. As long as the server has anything to do for it, it holds the lock.
pub(super) fn load(found: &Found, address: &Address, password: Option<&Secret>, database: &str, lock: &str) -> Tool {
    // The one that had it last has ended, which the server may not have noticed yet.
    let takes = format!(", @keepsake_client = GET_LOCK({}, 10)", text(lock));
    client_with_options(found, address, password, &takes).arg(format!("--database={database}")).feed_stdin()
}

/// Proves that the client gets into the server, with all that a load gives it. The agent's own connection proves it for the agent only: a client
/// may lack the account's authentication plugin or trust other certificates, and the database is dropped before it would tell.
///
/// # Errors
/// In the client's words.
pub(super) async fn gets_in(found: &Found, address: &Address, password: Option<&Secret>) -> Result<()> {
    const ANSWER: &str = "keepsake";
    let asks = client_with_options(found, address, password, "")
        .arg("--skip-column-names")
        .arg(format!("--execute=SELECT '{ANSWER}'"));
    let why = match asks.output().await {
        Ok(said) if said.trim() == ANSWER => return Ok(()),
        Ok(_) => Error::new(Kind::Internal, "it ended well without the answer"),
        Err(e) => e,
    };
    Err(why.context(format!(
        "the client {} does not get into the server at {} as {}, but the agent does: it may lack the account's authentication plugin \
         or TLS; name one of the server's family with --mysql-program, or give --mysql-ca-file",
        found.program,
        address.place(),
        address.user
    )))
}

fn client_with_options(found: &Found, address: &Address, password: Option<&Secret>, also: &str) -> Tool {
    let mut tool = connected(found, address, password).args([
        "--batch",
        // No command of the client but DELIMITER works, and line ends and NUL are taken as they are.
        "--binary-mode",
        // Else the bodies of triggers and routines lose theirs.
        "--comments",
        "--default-character-set=utf8mb4",
        MAX_PACKET,
    ]);
    // A slow repository must not look like a dead client, nor a lock of somebody else's like a slow load.
    tool = tool.arg(format!(
        "--init-command=SET SESSION wait_timeout = 86400, SESSION net_read_timeout = 3600, SESSION lock_wait_timeout = 60{also}"
    ));
    if found.has("--sandbox") {
        tool = tool.arg("--sandbox");
    }
    tool.stderr_filter(stderr::load)
}

fn connected(found: &Found, address: &Address, password: Option<&Secret>) -> Tool {
    // Nothing of the machine's option files: `[client] default-character-set = utf8` alone would spoil a dump.
    let mut tool =
        Tool::of(&found.toolbox, &found.program).arg("--no-defaults").arg(format!("--user={}", address.user));
    tool = match &address.socket {
        Some(socket) => tool.arg("--protocol=SOCKET").arg(format!("--socket={}", socket.display())),
        None => {
            tool.arg("--protocol=TCP").arg(format!("--host={}", address.host)).arg(format!("--port={}", address.port))
        }
    };
    if address.socket.is_none() {
        tool = match (&address.ca_file, found.family) {
            (Some(ca), Family::Mysql) => {
                tool.arg(format!("--ssl-ca={}", ca.display())).arg("--ssl-mode=VERIFY_IDENTITY")
            }
            (Some(ca), Family::Mariadb) => {
                tool.arg(format!("--ssl-ca={}", ca.display())).arg("--ssl-verify-server-cert")
            }
            // MySQL's tools try TLS and do not verify; MariaDB's verify by default since 11.4.
            (None, Family::Mysql) => tool,
            (None, Family::Mariadb) => tool.arg("--skip-ssl-verify-server-cert"),
        };
    }
    match password {
        Some(password) => tool.secret_env("MYSQL_PWD", password),
        None => tool,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[tokio::test]
    async fn tools_of_a_software_collection_are_found_with_their_libraries() {
        let folder = tempfile::tempdir().unwrap();
        // As tools do whose libraries are not found: nothing is said on stdout, and the status is not 0.
        let text = "#!/bin/sh\n[ \"$LD_LIBRARY_PATH\" = /opt/lib64 ] || exit 127\necho 'mysqldump  Ver 10.13 Distrib 5.7.24, for Linux (x86_64)'\n";
        for name in ["mysqldump", "mysql"] {
            let beside = folder.path().join("new");
            std::fs::write(&beside, text).unwrap();
            std::fs::set_permissions(&beside, std::fs::Permissions::from_mode(0o755)).unwrap();
            std::fs::rename(&beside, folder.path().join(name)).unwrap();
        }
        let mut programs = Programs::default();
        programs.toolbox.tool_dir = Some(folder.path().to_path_buf());
        programs.toolbox.tool_env = vec!["LD_LIBRARY_PATH=/opt/lib64".to_owned()];
        for found in
            [dump_tool(&programs, Family::Mysql).await.unwrap(), client(&programs, Family::Mysql).await.unwrap()]
        {
            assert!(found.version.contains("5.7.24") && found.family == Family::Mysql, "{found:?}");
        }
        programs.toolbox.tool_env.clear();
        assert!(dump_tool(&programs, Family::Mysql).await.unwrap_err().chain().contains("127"));
        programs.dump = Some("no-such-tool-of-keepsake".to_owned());
        let told = dump_tool(&programs, Family::Mysql).await.unwrap_err().chain();
        assert!(told.contains(&folder.path().display().to_string()) && told.contains("--tool-dir"), "{told}");
    }
}
