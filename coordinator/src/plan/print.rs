//! A plan as people read it.

use std::fmt;

use keepsake_core::config::AlertLevels;
use keepsake_core::id::Component;

use super::{Action, CheckAt, ConfigMust, ConfigPair, CutLimits, Goal, Plan, Undo, WORKER};
use crate::topology::kubernetes::{ResyncTask, Undrained};

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.goal {
            Goal::Backup { .. } => writeln!(f, "backup of {} into {}", self.installation, self.set_in_words())?,
            Goal::Restore { epoch, .. } => {
                writeln!(f, "restore of {} from {} (epoch {epoch})", self.installation, self.set_in_words())?;
            }
            Goal::Rebuild { epoch, .. } => {
                writeln!(
                    f,
                    "rebuild of {} from the objects of {} (epoch {epoch})",
                    self.installation,
                    self.set_in_words()
                )?;
            }
            Goal::Resync => {
                writeln!(f, "resync of {}: make Backend's Config what System's database says", self.installation)?;
            }
            Goal::Finalize { restore, .. } => {
                writeln!(
                    f,
                    "finalize restore {restore} of {}: drop the data that was there before",
                    self.installation
                )?;
            }
            Goal::Rollback { restore, .. } => {
                writeln!(
                    f,
                    "take back restore {restore} of {}: put the data back that was there before",
                    self.installation
                )?;
            }
        }
        let mut n = 0;
        let mut gone_by = false;
        for stage in &self.stages {
            writeln!(f, "\n{}", stage.title)?;
            for step in &stage.steps {
                n += 1;
                gone_by |= step.action == Action::PointOfNoReturn;
                write!(f, "  {n:>2}. {}", step.action)?;
                match &step.undo {
                    Undo::Nothing => writeln!(f)?,
                    // What stands behind the point of no return is undone only by `rollback --discard-writes`.
                    Undo::By { .. } if gone_by => writeln!(f)?,
                    Undo::By { action } => writeln!(f, "   [undo: {action}]")?,
                    Undo::Impossible { why, .. } => writeln!(f, "   [cannot be undone: {why}]")?,
                }
            }
        }
        if !self.notes.is_empty() {
            writeln!(f)?;
            for note in &self.notes {
                writeln!(f, "note: {note}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BeginSet => f.write_str("make the set's own key, sealed to the recipients"),
            Self::Cut { groups, required, limits } => cut(f, groups, *required, *limits),
            Self::Dump { component, engine } => write!(f, "dump {component} ({engine})"),
            Self::CommitSet => f.write_str("sign and write the record"),
            Self::Quiesce { namespace: Some(namespace), keeps, .. } => {
                write!(f, "scale the applications in namespace {namespace} to 0, the operator first")?;
                if keeps.is_empty() { Ok(()) } else { write!(f, "; left running: {}", keeps.join(", ")) }
            }
            Self::Drain { component, deadline, otherwise } => {
                write!(f, "wait until {WORKER} has worked off its queues in {component}, at most {deadline} s; ")?;
                f.write_str(otherwise_in_words(*otherwise))
            }
            Self::CloseRoutes { namespace } => {
                write!(f, "close the Routes of 3scale in namespace {namespace}: callers from outside get 503")
            }
            Self::OpenRoutes { namespace } => {
                write!(f, "give the Routes of 3scale in namespace {namespace} back what they had")
            }
            Self::ResumeWorkloads { namespace: Some(namespace), .. } => {
                write!(f, "scale the applications in namespace {namespace} back to what they were, the operator last")
            }
            Self::Quiesce { commands, .. } | Self::ResumeWorkloads { commands, .. } => {
                write!(f, "run {}", told(commands))
            }
            Self::Stage { component, queues, in_place, objects } => {
                write!(f, "stage {component}")?;
                if component.as_str() == keepsake_core::format::objects::COMPONENT {
                    return write!(f, ": {objects}");
                }
                match (queues.is_restore(), in_place) {
                    (true, false) => Ok(()),
                    (false, false) => write!(f, " (queues: {queues})"),
                    (true, true) => f.write_str(" (in place)"),
                    (false, true) => write!(f, " (queues: {queues}, in place)"),
                }
            }
            Self::Check { component, at: CheckAt::Loaded } => {
                write!(f, "look whether {component} answers with the new data")
            }
            Self::Check { component, at: CheckAt::Live } => write!(f, "look whether {component} answers"),
            Self::ResyncConfig { pair, live } => {
                write!(f, "make the Config in {} what {} says{}", pair.backend, pair.system, levels(pair))?;
                f.write_str(if live.is_some() { " (what two looks see, while the applications run)" } else { "" })
            }
            Self::CheckConfig { pair, must: ConfigMust::BeEqual } => {
                write!(f, "look whether the Config in {} is what {} says{}", pair.backend, pair.system, levels(pair))
            }
            Self::CheckConfig { pair, must: ConfigMust::BeComparable } => {
                write!(
                    f,
                    "look how the Config in {} differs from what {} says{}",
                    pair.backend,
                    pair.system,
                    levels(pair)
                )
            }
            Self::RememberConfig { pair } => {
                write!(f, "remember that the Config in {} follows {}", pair.backend, pair.system)
            }
            Self::PointOfNoReturn => {
                f.write_str("before this every failure is undone; from here on nothing goes back, and a failure halts")
            }
            Self::RollOut { namespace, workloads } => {
                write!(f, "roll out in namespace {namespace}, as far as there are: {}", workloads.join(", "))
            }
            Self::Resync { namespace, task } => {
                write!(f, "{} (`rake {}`, a Job in namespace {namespace})", purpose(*task), task.rake())
            }
            Self::AwaitInstallation { namespace } => {
                write!(
                    f,
                    "wait until the installation in namespace {namespace} is whole: its operator builds it, or you, from its template"
                )
            }
            Self::AwaitAgents { components, deadline } => {
                let names = components.iter().map(Component::as_str).collect::<Vec<_>>().join(", ");
                write!(f, "wait until the agents of {names} answer, for {deadline} s")
            }
            Self::CheckApplications { namespace } => {
                write!(f, "look whether the applications in namespace {namespace} are as they were")
            }
            Self::Commit { component } => write!(f, "commit {component}"),
            Self::Rollback { component } => write!(f, "roll back {component}"),
            Self::Finalize { component } => write!(f, "finalize {component}"),
        }
    }
}

/// How all stores are held, and when not.
fn cut(f: &mut fmt::Formatter<'_>, groups: &[Vec<Component>], required: bool, limits: CutLimits) -> fmt::Result {
    let group = |g: &Vec<Component>| g.iter().map(Component::as_str).collect::<Vec<_>>().join(" and ");
    let groups: Vec<String> = groups.iter().map(group).collect();
    let (attempts, budget) = (limits.attempts, limits.budget_ms);
    write!(f, "hold writes of {}; open all snapshots, prove all holds, let writes go on", groups.join(", then "))?;
    write!(f, " (at most {attempts} attempts, {budget} ms to get each hold; ")?;
    f.write_str(if required { "without a cut there is no set)" } else { "without a cut the set is made all the same)" })
}

/// What System makes anew.
fn purpose(task: ResyncTask) -> &'static str {
    match task {
        ResyncTask::ZyncDomains => "have zync make the routes anew",
        ResyncTask::SearchIndex => "index for the search anew, by ts:index alone where it is system-sphinx",
        ResyncTask::CacheFlush => "flush System's cache",
        ResyncTask::BackendRewrite => "have System write Backend's Config, which only adds",
    }
}

/// What becomes of a run when jobs are left.
fn otherwise_in_words(otherwise: Undrained) -> &'static str {
    match otherwise {
        Undrained::GoOn => "then go on and tell how many jobs are left",
        Undrained::Fail => "if jobs are left then, fail",
    }
}

/// What is said of alert levels.
fn levels(pair: &ConfigPair) -> &'static str {
    match pair.alert_levels {
        AlertLevels::Expected => "",
        AlertLevels::LeftAlone => ", but for alert levels",
    }
}

/// Commands as they would be typed, one after another.
fn told(commands: &[Vec<String>]) -> String {
    commands.iter().map(|argv| argv.join(" ")).collect::<Vec<_>>().join("; then ")
}
