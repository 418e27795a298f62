//! Every object's key, in one place. `docs/format.md` shows the same as a tree.

use crate::id::{ArtifactName, Attempt, Component, Epoch, Installation, SetId};

/// Format, repository id and the initial keys; written once.
pub const CONFIG: &str = "keepsake.json";
/// How to restore by hand; one per format version.
pub const RESTORE: &str = "RESTORE-1.md";
/// Later keys, `keys/<n>.json`.
pub const KEYS: &str = "keys";
/// All sets.
pub const SETS: &str = "sets";
/// All runs.
pub const RUNS: &str = "runs";

/// Later recipients and signers, numbered from 1.
pub fn keys(n: u32) -> String {
    format!("{KEYS}/{n}.json")
}

/// The folder of an installation's sets.
pub fn sets(installation: &Installation) -> String {
    format!("{SETS}/{installation}")
}

/// The folder of one set.
pub fn set(installation: &Installation, set: SetId) -> String {
    format!("{SETS}/{installation}/{set}")
}

/// The set's own identity, sealed to the recipients. After the n-th re-keying (n ≥ 2) `key.<n>.age`.
pub fn set_key(installation: &Installation, id: SetId, n: u32) -> String {
    let folder = set(installation, id);
    if n <= 1 { format!("{folder}/key.age") } else { format!("{folder}/key.{n}.age") }
}

/// The record's signature.
pub fn signature(installation: &Installation, id: SetId) -> String {
    format!("{}/record.sig", set(installation, id))
}

/// The record.
pub fn record(installation: &Installation, id: SetId) -> String {
    format!("{}/record.json", set(installation, id))
}

/// One stored piece of an artifact. `again` is 0 at first; n when it was stored for the n-th time again, because the outcome
/// of a put was not known.
pub fn segment(
    installation: &Installation,
    id: SetId,
    component: &Component,
    artifact: &ArtifactName,
    attempt: &Attempt,
    index: u64,
    again: u32,
) -> String {
    let base = format!("{}/segments/{component}/{artifact}/{attempt}/{index:06}", set(installation, id));
    if again == 0 { base } else { format!("{base}-{again}") }
}

/// The folder of an installation's runs.
pub fn runs(installation: &Installation) -> String {
    format!("{RUNS}/{installation}")
}

/// The folder of one run.
pub fn run(installation: &Installation, epoch: Epoch) -> String {
    format!("{RUNS}/{installation}/{:08}", epoch.0)
}

/// The n-th object of a run: 0 is the plan, the others are events.
pub fn run_entry(installation: &Installation, epoch: Epoch, n: u32) -> String {
    format!("{}/{n:06}.json", run(installation, epoch))
}

/// Asks a run to stop.
pub fn run_cancel(installation: &Installation, epoch: Epoch) -> String {
    format!("{}/cancel", run(installation, epoch))
}

/// What an agent creates to find out whether it can write; not a set.
pub fn agent_probe(installation: &Installation, component: &Component) -> String {
    format!("{SETS}/{installation}/probes/{component}")
}
