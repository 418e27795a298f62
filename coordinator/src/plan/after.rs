//! What follows on Kubernetes when nothing goes back any more: new pods where nobody has stopped them, what System makes anew, a look at all of it.

use keepsake_core::error::Result;
use keepsake_core::id::Component;

use super::config::is_system;
use super::{Action, Stage, Step, Undo};
use crate::topology::InstallationSettings;
use crate::topology::kubernetes::{By, KubernetesSettings, ResyncTask};

/// What the documented procedure rolls out after a restore, in its order; of the last two an installation has one.
pub(super) const ROLLED_OUT: [&str; 5] =
    ["backend-worker", "system-app", "system-sidekiq", "system-searchd", "system-sphinx"];

/// Those besides that read Secrets which a restore may have written.
pub(super) const READERS: [&str; 6] =
    ["backend-listener", "backend-cron", "zync", "zync-que", "apicast-staging", "apicast-production"];

/// Zync's database.
const ZYNC: &str = "zync-database";

/// What is said where nobody makes the Config equal.
const BY_HAND: &str = "the Config of Backend is not made equal to System's, as asked for with --resync rake: once the applications run, run `bundle exec rake \
                       backend:storage:rewrite` in system-app. It only adds: what System does not have any more goes on authorizing";
/// What is said where System does.
const BY_JOB: &str = "the Config of Backend is written by upstream's rake task once the applications run, as asked for with --resync rake. It only adds: what \
                      System does not have any more goes on authorizing";

/// What was restored, as far as it matters for what follows.
#[derive(Clone, Copy)]
pub(super) struct About<'a> {
    /// The components.
    pub(super) placed: &'a [&'a Component],
    /// Upstream's task is to write the Config.
    pub(super) by_rake: bool,
    /// Secrets may be others than those that applications have read.
    pub(super) writes_objects: bool,
}

/// The stages once the applications run.
///
/// # Errors
/// As [`Action::step_id`].
pub(super) fn stages(
    installation: &InstallationSettings,
    about: About<'_>,
    notes: &mut Vec<String>,
) -> Result<Vec<Stage>> {
    let About { placed, by_rake, writes_objects } = about;
    let settings = installation.kubernetes.as_ref();
    let tasks = settings.map(|s| tasks(s, placed, by_rake)).unwrap_or_default();
    if by_rake {
        let told = if tasks.contains(&ResyncTask::BackendRewrite) { BY_JOB } else { BY_HAND };
        notes.push(told.to_owned());
    }
    let Some(settings) = settings else { return Ok(Vec::new()) };
    let namespace = || settings.namespace.clone();
    let mut stages = Vec::new();
    if settings.by == By::None {
        let mut workloads = ROLLED_OUT.map(str::to_owned).to_vec();
        if writes_objects {
            workloads.extend(READERS.map(str::to_owned));
        }
        let step = Action::RollOut { namespace: namespace(), workloads }.step(Undo::Nothing)?;
        stages.push(Stage { title: "roll out the applications".to_owned(), steps: vec![step] });
        if !tasks.is_empty() {
            notes.push(
                "what System makes anew takes running applications: if they are still stopped then, the restore halts until you have started them and \
                 said `keepsake resume`"
                    .to_owned(),
            );
        }
    }
    let steps = tasks.into_iter().map(|task| Action::Resync { namespace: namespace(), task }.step(Undo::Nothing));
    let steps = steps.collect::<Result<Vec<_>>>()?;
    if !steps.is_empty() {
        stages.push(Stage { title: "make anew what follows from the data".to_owned(), steps });
    }
    Ok(stages)
}

/// The last look at the applications, where they can be looked at.
///
/// # Errors
/// As [`Action::step_id`].
pub(super) fn check(installation: &InstallationSettings) -> Result<Option<Step>> {
    let Some(settings) = &installation.kubernetes else { return Ok(None) };
    Action::CheckApplications { namespace: settings.namespace.clone() }.step(Undo::Nothing).map(Some)
}

/// What is made anew: what the topology says, or what follows from the stores that are restored.
fn tasks(settings: &KubernetesSettings, placed: &[&Component], by_rake: bool) -> Vec<ResyncTask> {
    let system = placed.iter().any(|c| is_system(c));
    let zync = placed.iter().any(|c| c.as_str() == ZYNC);
    let mut tasks = match &settings.resync {
        Some(chosen) if chosen.is_empty() => return Vec::new(),
        Some(chosen) => chosen.clone(),
        None => [
            (ResyncTask::ZyncDomains, system || zync),
            (ResyncTask::SearchIndex, system),
            (ResyncTask::CacheFlush, system),
        ]
        .into_iter()
        .filter_map(|(task, follows)| follows.then_some(task))
        .collect(),
    };
    if by_rake && !tasks.contains(&ResyncTask::BackendRewrite) {
        tasks.push(ResyncTask::BackendRewrite);
    }
    tasks
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::topology::Topology;

    fn planned(platform: &str, placed: &[&str], by_rake: bool) -> (Vec<String>, Vec<String>) {
        let text = format!(
            "
repository: {{ url: 'file:///backups' }}
installations:
  - name: prod
{platform}
    components:
      - {{ name: system-mysql, engine: mysql, agent: 'http://localhost:9090' }}
"
        );
        let topology = Topology::parse(&text, Path::new("/")).unwrap();
        let placed: Vec<Component> = placed.iter().map(|c| c.parse().unwrap()).collect();
        let mut notes = Vec::new();
        let placed: Vec<_> = placed.iter().collect();
        let about = About { placed: &placed, by_rake, writes_objects: false };
        let stages = stages(&topology.installations[0], about, &mut notes);
        let steps = stages.unwrap().into_iter().flat_map(|s| s.steps);
        (steps.map(|s| s.id.to_string()).collect(), notes)
    }

    fn kubernetes(more: &str) -> String {
        format!("    platform: kubernetes\n    kubernetes: {{ namespace: threescale{more} }}")
    }

    #[test]
    fn what_follows_depends_on_what_is_restored() {
        let all = ["resync-zync-domains", "resync-search-index", "resync-cache-flush"];
        let of = |placed: &[&str]| planned(&kubernetes(""), placed, false).0;
        assert_eq!(of(&["system-mysql", "backend-redis"]), all);
        assert_eq!(of(&["system-postgresql"]), all);
        assert_eq!(of(&["zync-database"]), ["resync-zync-domains"]);
        assert!(of(&["backend-redis", "system-redis", "system-storage"]).is_empty());
        assert_eq!(planned(&kubernetes(", resync: [cache-flush]"), &["system-redis"], false).0, ["resync-cache-flush"]);
        assert!(planned(&kubernetes(", resync: []"), &["system-mysql"], false).0.is_empty());
        assert!(planned("", &["system-mysql"], false).0.is_empty());
    }

    #[test]
    fn who_is_not_stopped_is_rolled_out() {
        let (steps, notes) = planned(&kubernetes(", by: none"), &["zync-database"], false);
        assert_eq!(steps, ["roll-out", "resync-zync-domains"]);
        assert!(notes[0].contains("keepsake resume"), "{notes:?}");
        let (steps, notes) = planned(&kubernetes(", by: none, resync: []"), &["zync-database"], false);
        assert_eq!((steps, notes), (vec!["roll-out".to_owned()], Vec::new()));
    }

    #[test]
    fn upstreams_task_is_a_job_where_there_may_be_one() {
        let (steps, notes) = planned(&kubernetes(""), &["backend-redis"], true);
        assert_eq!((steps, notes), (vec!["resync-backend-rewrite".to_owned()], vec![BY_JOB.to_owned()]));
        let (steps, notes) = planned(&kubernetes(", resync: [backend-rewrite]"), &["backend-redis"], true);
        assert_eq!((steps.len(), notes.len()), (1, 1));
        for platform in [String::new(), kubernetes(", resync: []")] {
            let (steps, notes) = planned(&platform, &["backend-redis"], true);
            assert_eq!((steps, notes), (Vec::new(), vec![BY_HAND.to_owned()]));
        }
    }
}
