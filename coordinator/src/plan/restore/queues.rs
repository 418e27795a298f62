//! What a restore does with queues, and what that means for the jobs in them.

use std::collections::BTreeMap;

use keepsake_core::error::{Error, Kind, Result};
use keepsake_core::id::Component;
use keepsake_core::queues::{QueuePolicy, jobs};
use keepsake_core::record::ComponentRecord;

use crate::topology::InstallationSettings;

/// The policies by component.
pub(super) fn policies(
    installation: &InstallationSettings,
    only: &[Component],
    asked: &[(Component, QueuePolicy)],
) -> Result<BTreeMap<Component, QueuePolicy>> {
    let mut policies = BTreeMap::new();
    for (name, policy) in asked {
        installation.component(name)?;
        if !only.is_empty() && !only.contains(name) {
            return Err(Error::new(
                Kind::Invalid,
                format!("--queues {name}={policy}, but {name} is not restored: name it with --component, too"),
            ));
        }
        if policies.insert(name.clone(), *policy).is_some_and(|before| before != *policy) {
            return Err(Error::new(Kind::Invalid, format!("--queues says two things about {name}: say one")));
        }
    }
    Ok(policies)
}

/// What becomes of the jobs that a dump holds.
pub(super) fn note(name: &Component, policy: QueuePolicy, entry: &ComponentRecord) -> Option<String> {
    let held = entry.dump.as_ref().map(|d| jobs(&d.report.facts))?;
    let of_the_set = match &held {
        Some(jobs) => format!("{jobs} of the set"),
        None => "the jobs of the set, which were not counted when it was dumped,".to_owned(),
    };
    match policy {
        QueuePolicy::Restore if held.is_some_and(|h| h.total == 0) => None,
        QueuePolicy::Restore => Some(format!(
            "{name}: {of_the_set} will run again, also those that ran since the dump (--queues {name}=keep or =drop leaves them out)"
        )),
        QueuePolicy::Keep => Some(format!("{name}: {of_the_set} are left out; the live server's queues stay")),
        QueuePolicy::Drop => Some(format!("{name}: {of_the_set} are left out, and the live server's queues go")),
    }
}
