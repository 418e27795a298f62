//! Telling what happens: bars on a terminal, one line per event otherwise.

use std::collections::HashMap;
use std::io::IsTerminal;
use std::sync::{Mutex, PoisonError};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use keepsake_core::id::StepId;

use super::output;
use crate::fleet::Progress;
use crate::plan::{Plan, Step};
use crate::platform::Looked;
use crate::run::Reporter;
use crate::run::event::{Event, Output};

/// Tells people.
#[derive(Debug)]
pub(super) struct Terminal {
    bars: Option<MultiProgress>,
    /// By installation, step, and artifact where there are several at once.
    steps: Mutex<HashMap<(String, StepId, String), ProgressBar>>,
}

impl Terminal {
    /// Bars if stderr is a terminal.
    pub(super) fn new() -> Self {
        let bars = std::io::stderr().is_terminal().then(MultiProgress::new);
        Self { bars, steps: Mutex::new(HashMap::new()) }
    }

    fn line(&self, plan: &Plan, text: &str) {
        let line = format!("{}: {text}", plan.installation);
        match &self.bars {
            // Printed above the bars.
            Some(bars) => bars.suspend(|| output::say(&line)),
            None => output::say(&line),
        }
    }

    fn forget(&self, plan: &Plan, step: &StepId) {
        let mut steps = self.steps.lock().unwrap_or_else(PoisonError::into_inner);
        let installation = plan.installation.to_string();
        for (_, bar) in steps.extract_if(|(of, its, _), _| *of == installation && its == step) {
            bar.finish_and_clear();
        }
    }
}

fn bar(bars: &MultiProgress, prefix: String) -> ProgressBar {
    let bar = bars.add(ProgressBar::new(0));
    let template = "{prefix:32} {msg:12} {bytes:>10} {wide_bar} {bytes_per_sec:>12}";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.set_prefix(prefix);
    bar
}

/// What is said of a step that is undone. What follows from the data is made anew then, of that which is back.
pub(super) fn undoing(plan: &Plan, step: &StepId, event: &Event) -> String {
    let undone = if plan.step(step).is_some_and(|s| s.action.follows()) { "made anew" } else { "undone" };
    match event {
        Event::UndoStarted { .. } => format!("{step} is being {undone}"),
        Event::UndoFailed { failure, .. } => format!("{step} could NOT be {undone}: {}", failure.text),
        _ => format!("{step} {undone}"),
    }
}

impl Reporter for Terminal {
    fn event(&self, plan: &Plan, event: &Event) {
        match event {
            Event::Started { step } => {
                if self.bars.is_none() {
                    self.line(plan, &format!("{step} started"));
                }
            }
            Event::Succeeded { step, output } => {
                self.forget(plan, step);
                self.line(plan, &format!("{step} done{}", said(output)));
            }
            Event::Failed { step, failure } => {
                self.forget(plan, step);
                self.line(plan, &format!("{step} FAILED: {}", failure.text));
            }
            Event::UndoStarted { step } | Event::Undone { step } | Event::UndoFailed { step, .. } => {
                self.line(plan, &undoing(plan, step, event));
            }
            Event::Ended { outcome, note } => {
                let note = if note.is_empty() { String::new() } else { format!(": {note}") };
                self.line(plan, &format!("{} {}{note}", plan.word(), outcome.as_str()));
            }
            Event::Planned { plan, .. } => {
                self.line(plan, "the installation is built, and this is what comes now:");
                for line in plan.to_string().lines() {
                    self.line(plan, line);
                }
            }
            // A backup leaves nothing that would have to be undone: its end says all.
            Event::Unwinding { .. } if plan.is_backup() => {}
            Event::Unwinding { failure, .. } => self.line(plan, &format!("going back: {}", failure.text)),
            Event::Halted { outcome, note } => {
                let resume = format!("keepsake resume --installation {}", plan.installation);
                self.line(plan, &format!("{} {}: {note}. Go on with `{resume}`", plan.word(), outcome.as_str()));
            }
            Event::SetPrepared { .. }
            | Event::RecordPrepared { .. }
            | Event::TakenOver { .. }
            | Event::Alive
            | Event::Unknown => {}
        }
    }

    fn say(&self, plan: &Plan, text: &str) {
        self.line(plan, text);
    }

    fn progress(&self, plan: &Plan, step: &Step, progress: Progress) {
        let Some(bars) = &self.bars else { return };
        let mut steps = self.steps.lock().unwrap_or_else(PoisonError::into_inner);
        let key = |artifact: &str| (plan.installation.to_string(), step.id.clone(), artifact.to_owned());
        let whole = steps.entry(key("")).or_insert_with(|| bar(bars, format!("{} {}", plan.installation, step.id)));
        whole.set_message(progress.phase);
        whole.set_length(progress.expected.max(progress.bytes));
        whole.set_position(progress.bytes);
        for (artifact, bytes) in progress.artifacts {
            // How long each will be is not known.
            let part = steps.entry(key(&artifact)).or_insert_with(|| bar(bars, format!("  {artifact}")));
            part.set_length(progress.expected.max(bytes));
            part.set_position(bytes);
        }
    }
}

/// What a step left, in words; empty when there is nothing to tell.
pub(super) fn said(output: &Output) -> String {
    match output {
        Output::Nothing | Output::Set { .. } => String::new(),
        Output::Stopped { workloads } => format!(": {} workloads", workloads.len()),
        Output::RoutesClosed { routes: 0 } => ": there is none that leads to this 3scale".to_owned(),
        Output::RoutesClosed { routes } => format!(": {routes} Routes"),
        Output::Resynced { told } | Output::Drained { told, .. } => format!(": {told}"),
        Output::Looked { looks } => with_looks(String::new(), looks),
        Output::Recorded { status } => format!(": the set is {}", crate::catalog::status_word(*status)),
        Output::Cut { made: Some(made), .. } => {
            let pause = std::time::Duration::from_micros(made.cut.pause_us);
            let mut told =
                format!(": one instant of {} stores; writers waited at most {pause:?}", made.cut.components.len());
            if made.cut.attempt > 1 {
                told.push_str(&format!(" (attempt {})", made.cut.attempt));
            }
            with_warnings(told, &made.cut.void)
        }
        Output::Cut { made: None, why_not } => {
            format!(": NO CUT, every store is dumped at its own moment: {}", why_not.as_deref().unwrap_or_default())
        }
        Output::Dumped { dump } => {
            let bytes: u64 = dump.artifacts.iter().map(|a| a.length).sum();
            let stored: u64 = dump.artifacts.iter().flat_map(|a| &a.segments).map(|s| s.stored).sum();
            let told = format!(": {} stored as {}", output::bytes(bytes), output::bytes(stored));
            with_warnings(told, &dump.report.warnings)
        }
        Output::Loaded { warnings, .. } => with_warnings(String::new(), warnings),
        Output::Config { keys, wrong, changes, warnings, .. } => {
            let found = format!(
                ": {keys} keys, {} missing, {} different, {} surplus",
                wrong.missing, wrong.different, wrong.surplus
            );
            let made = changes.map(|n| format!("; {n} changes made")).unwrap_or_default();
            with_warnings(found + &made, warnings)
        }
    }
}

/// One thing that was looked at.
fn looked(look: &Looked) -> String {
    format!("  {}: {}: {}", if look.warning { "warning" } else { "good" }, look.check, look.found)
}

/// With a line for each.
pub(super) fn with_looks(mut told: String, looks: &[Looked]) -> String {
    for look in looks {
        told.push('\n');
        told.push_str(&looked(look));
    }
    told
}

fn with_warnings(mut told: String, warnings: &[String]) -> String {
    for warning in warnings {
        told.push_str("\n  warning: ");
        told.push_str(warning);
    }
    told
}
