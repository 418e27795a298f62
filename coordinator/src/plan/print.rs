//! A plan as people read it.

use std::fmt;

use super::{Action, Goal, Plan, Undo};

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.goal {
            Goal::Backup { .. } => writeln!(f, "backup of {} into set {}", self.installation, self.set)?,
            Goal::Restore { epoch } => {
                writeln!(f, "restore of {} from set {} (epoch {epoch})", self.installation, self.set)?;
            }
        }
        let mut n = 0;
        for stage in &self.stages {
            writeln!(f, "\n{}", stage.title)?;
            for step in &stage.steps {
                n += 1;
                write!(f, "  {n:>2}. {}", step.action)?;
                match &step.undo {
                    Undo::Nothing => writeln!(f)?,
                    Undo::By { action } => writeln!(f, "   [undo: {action}]")?,
                    Undo::Impossible { why } => writeln!(f, "   [cannot be undone: {why}]")?,
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
            Self::Cut { groups, required, limits } => {
                let groups: Vec<String> = groups
                    .iter()
                    .map(|g| g.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and "))
                    .collect();
                let (attempts, budget) = (limits.attempts, limits.budget_ms);
                write!(
                    f,
                    "hold writes of {}; open all snapshots, prove all holds, let writes go on",
                    groups.join(", then ")
                )?;
                write!(f, " (at most {attempts} attempts, {budget} ms to get each hold; ")?;
                f.write_str(if *required {
                    "without a cut there is no set)"
                } else {
                    "without a cut the set is made all the same)"
                })
            }
            Self::Dump { component, engine } => write!(f, "dump {component} ({engine})"),
            Self::CommitSet => f.write_str("sign and write the record"),
            Self::Stage { component, queues } if queues.is_restore() => write!(f, "stage {component}"),
            Self::Stage { component, queues } => write!(f, "stage {component} (queues: {queues})"),
            Self::Commit { component } => write!(f, "commit {component}"),
            Self::Rollback { component } => write!(f, "roll back {component}"),
            Self::Finalize { component } => write!(f, "finalize {component}"),
        }
    }
}
