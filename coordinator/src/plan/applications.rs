//! How a plan stops and starts the applications: by hooks, by scaling in a cluster, or not at all.

use super::Action;
use crate::topology::InstallationSettings;
use crate::topology::kubernetes::By;

/// The actions that stop the applications and that start them again; none when a person does it.
pub(super) fn stop_and_start(installation: &InstallationSettings) -> Option<(Action, Action)> {
    if let Some(hooks) = &installation.hooks {
        return Some((
            Action::Quiesce { commands: hooks.quiesce.clone(), namespace: None },
            Action::ResumeWorkloads { commands: hooks.resume.clone(), namespace: None },
        ));
    }
    let settings = installation.kubernetes.as_ref().filter(|k| k.by == By::Scale)?;
    let namespace = Some(settings.namespace.clone());
    Some((
        Action::Quiesce { commands: Vec::new(), namespace: namespace.clone() },
        Action::ResumeWorkloads { commands: Vec::new(), namespace },
    ))
}
