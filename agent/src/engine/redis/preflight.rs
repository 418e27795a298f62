//! What is looked at before a dump or a load touches anything.

use keepsake_core::error::{Error, Kind, Result};
use keepsake_core::record::{DumpReport, Facts};

use super::connection::{Info, Server};
use keepsake_core::format::rdb::Walked;

/// Settings that a restore compares or tells.
const CONFIG: &[&str] = &["maxmemory", "maxmemory-policy", "appendonly", "databases"];

/// What a record keeps of the server.
pub(super) async fn facts(server: &Server, info: &Info) -> Result<Facts> {
    let mut facts = Facts::new();
    facts.insert("version".to_owned(), info.version().to_owned());
    facts.insert("used_memory".to_owned(), info.number("used_memory").to_string());
    for name in ["role", "run_id"] {
        if let Some(value) = info.get(name) {
            facts.insert(name.to_owned(), value.to_owned());
        }
    }
    for name in CONFIG {
        if let Some(value) = server.config(name).await? {
            facts.insert((*name).to_owned(), value);
        }
    }
    Ok(facts)
}

/// What would stop a dump.
pub(super) fn dump_problems(info: &Info) -> Vec<String> {
    kind_problems(info)
}

/// What no operation can work with.
fn kind_problems(info: &Info) -> Vec<String> {
    let mut problems = Vec::new();
    if info.is("redis_mode", "sentinel") {
        problems.push("this is a Sentinel: point the agent at the server that it watches".to_owned());
    }
    if info.is("cluster_enabled", "1") {
        problems.push("this is a node of a cluster, which 3scale does not use and Keepsake does not serve".to_owned());
    }
    if !info.is("role", "master") && !info.is("redis_mode", "sentinel") {
        let of = info.get("master_host").unwrap_or("unknown");
        problems.push(format!("this server is a replica of {of}: point the agent at the primary (--redis-url)"));
    }
    problems
}

/// What would stop a load, whatever way it takes.
pub(super) fn load_problems(info: &Info) -> Vec<String> {
    let mut problems = kind_problems(info);
    if info.is("loading", "1") {
        problems.push("the server is loading its own data now: wait until it has".to_owned());
    }
    problems
}

/// The problems as one error, or nothing.
pub(super) fn refuse(mut problems: Vec<String>) -> Result<()> {
    if problems.is_empty() {
        return Ok(());
    }
    problems.dedup();
    Err(Error::new(Kind::Unsupported, problems.join("; ")))
}

/// Whether the server can take an RDB: one newer than the server would wipe it.
pub(super) async fn check_load(server: &Server, walked: &Walked, recorded: Option<&DumpReport>) -> Result<Vec<String>> {
    let info = server.info().await?;
    refuse(load_problems(&info))?;
    readable(&info, walked)?;

    let mut warnings = Vec::new();
    let maxmemory: u64 = server.config("maxmemory").await?.and_then(|v| v.parse().ok()).unwrap_or(0);
    let needed: u64 =
        recorded.and_then(|r| r.facts.get("used_memory")).and_then(|v| v.parse().ok()).unwrap_or(walked.length);
    if maxmemory > 0 {
        if needed > maxmemory {
            return Err(Error::new(
                Kind::Unsupported,
                format!(
                    "the data needs about {needed} bytes of memory, maxmemory allows {maxmemory}: raise it before the restore"
                ),
            ));
        }
        let policy = server.config("maxmemory-policy").await?.unwrap_or_default();
        if policy != "noeviction" {
            warnings.push(format!("maxmemory-policy is {policy}: the server may drop keys whenever it is full"));
        }
    }
    let replicas = info.number("connected_slaves");
    if replicas > 0 {
        warnings.push(format!("{replicas} replicas are attached: they will copy the loaded data anew"));
    }
    Ok(warnings)
}

/// The newest RDB version that a server reads, from the releases' sources (`RDB_VERSION` in rdb.h).
fn newest_version(info: &Info) -> u32 {
    let version = info.major_minor();
    if info.is_valkey() {
        // Valkey up to 8 kept version 11; from 9 on it also reads its own numbers from 80.
        return 11;
    }
    match version {
        (..=3, _) => 7,
        (4, _) => 8,
        (5 | 6, _) => 9,
        (7, ..=1) => 10,
        (7, 2..=3) => 11,
        _ => 12,
    }
}

fn readable(info: &Info, walked: &Walked) -> Result<()> {
    let refuse = |why: String| {
        Err(Error::new(
            Kind::Unsupported,
            format!(
                "{why}: {} would lose all its data over it. Restore to a server as new as the one that was dumped",
                info.name()
            ),
        ))
    };
    if walked.valkey {
        if info.is_valkey() && info.major_minor().0 >= 9 {
            return Ok(());
        }
        return refuse(format!("the RDB has Valkey's own format ({})", walked.version));
    }
    let newest = newest_version(info);
    if walked.version > newest {
        return refuse(format!("the RDB has version {}, the server reads up to {newest}", walked.version));
    }
    if walked.functions && info.major_minor().0 < 7 {
        return refuse("the RDB holds functions".to_owned());
    }
    if walked.modules {
        return refuse("the RDB holds values of modules, which are not served yet".to_owned());
    }
    Ok(())
}
