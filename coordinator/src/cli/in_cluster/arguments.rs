//! The command line of the coordinator in the cluster, from the one that was given here. Every flag is named, so that none is forgotten.
//!
//! What names files here (identities, topology, trust) is not handed over; the set is named by its id, so that it is the one that was looked at.

use clap::ValueEnum;
use jiff::{SignedDuration, Timestamp};
use keepsake_core::error::{Error, Kind, Result, ResultExt};
use keepsake_core::id::{Installation, RunId, SetId};

use crate::cli::args::{Backup, BeginBefore, Cancel, Data, Finalize, Rebuild, Restore, Resume, Rollback};
use crate::platform::kubernetes::coordinator::IDENTITY_FILE;

/// What a coordinator that runs may need until it begins: agents are found and asked, and the set is looked at. And so much clocks may differ.
const UNTIL_IT_BEGINS: SignedDuration = SignedDuration::from_mins(15);

/// A command line as it grows.
#[derive(Debug)]
struct Line(Vec<String>);

impl Line {
    fn new(command: &str, installation: &Installation) -> Self {
        Self(vec![command.to_owned(), "--installation".to_owned(), installation.to_string()])
    }

    fn flag(mut self, name: &str, given: bool) -> Self {
        self.0.extend(given.then(|| name.to_owned()));
        self
    }

    fn value(mut self, name: &str, value: Option<impl ToString>) -> Self {
        if let Some(value) = value {
            self.0.extend([name.to_owned(), value.to_string()]);
        }
        self
    }

    fn values(self, name: &str, values: impl IntoIterator<Item = String>) -> Self {
        values.into_iter().fold(self, |line, value| line.value(name, Some(value)))
    }
}

/// Of `backup`.
///
/// # Errors
/// `Invalid` when it cannot be done in the cluster.
pub(super) fn backup(command: &Backup, installation: &Installation, run: RunId) -> Result<Vec<String>> {
    // Which installation is known by now, and there is one.
    let Backup { which: _, components, max_parallel: _, dry_run, run_id, in_time } = command;
    must_do(*dry_run)?;
    not_given(run_id.is_some(), "--run-id")?;
    not_said(in_time)?;
    let components = components.iter().map(ToString::to_string);
    Ok(Line::new("backup", installation).values("--component", components).value("--run-id", Some(run)).0)
}

/// Of `restore`, from that set.
///
/// # Errors
/// As [`backup`].
pub(super) fn restore(
    command: &Restore,
    installation: &Installation,
    set: SetId,
    run: RunId,
    with_identity: bool,
) -> Result<Vec<String>> {
    let Restore {
        installation: _,
        set: _,
        components,
        data,
        identities: _,
        set_identity,
        objects,
        replace_endpoints,
        dry_run,
        yes: _,
        run_id,
        in_time,
    } = command;
    must_do(*dry_run)?;
    not_given(run_id.is_some(), "--run-id")?;
    not_said(in_time)?;
    not_given(set_identity.is_some(), "--set-identity")?;
    let line = Line::new("restore", installation)
        .value("--set", Some(set))
        .values("--component", components.iter().map(ToString::to_string))
        .value("--objects", Some(objects))
        .flag("--replace-endpoints", *replace_endpoints);
    Ok(confirmed(with_data(line, data), installation, run, with_identity))
}

/// Of `rebuild`, from that set.
///
/// # Errors
/// As [`backup`].
pub(super) fn rebuild(
    command: &Rebuild,
    installation: &Installation,
    set: SetId,
    run: RunId,
    with_identity: bool,
) -> Result<Vec<String>> {
    let Rebuild { set: _, objects_only, data, identities: _, set_identity, dry_run, yes: _, run_id, in_time } = command;
    must_do(*dry_run)?;
    not_given(run_id.is_some(), "--run-id")?;
    not_said(in_time)?;
    not_given(set_identity.is_some(), "--set-identity")?;
    let line = Line::new("rebuild", installation).flag("--objects-only", *objects_only);
    let mut arguments = confirmed(with_data(line, data), installation, run, with_identity);
    // It is no flag there.
    arguments.push(set.to_string());
    Ok(arguments)
}

/// How the data comes back.
fn with_data(line: Line, data: &Data) -> Line {
    let Data { queues, no_safety, keep_old, in_place, other_release, resync, alert_levels } = data;
    line.values("--queues", queues.iter().map(|(component, policy)| format!("{component}={}", policy.as_str())))
        .flag("--no-safety", *no_safety)
        .flag("--keep-old", *keep_old)
        .flag("--in-place", *in_place)
        .flag("--other-release", *other_release)
        .value("--resync", Some(word(resync)))
        .value("--alert-levels", alert_levels.as_ref().map(word))
}

/// Of `resume`, of that run.
///
/// # Errors
/// As [`backup`].
pub(super) fn resume(
    command: &Resume,
    installation: &Installation,
    run: RunId,
    with_identity: bool,
) -> Result<Vec<String>> {
    let Resume { installation: _, identities: _, set_identity, coordinator_is_gone, yes: _, run_id, in_time } = command;
    not_given(run_id.is_some(), "--run-id")?;
    not_said(in_time)?;
    not_given(set_identity.is_some(), "--set-identity")?;
    let line = Line::new("resume", installation).flag("--coordinator-is-gone", *coordinator_is_gone);
    Ok(confirmed(line, installation, run, with_identity))
}

/// Of `finalize`.
///
/// # Errors
/// As [`backup`].
pub(super) fn finalize(command: &Finalize, installation: &Installation) -> Result<Vec<String>> {
    let Finalize { installation: _, dry_run, in_time } = command;
    must_do(*dry_run)?;
    not_said(in_time)?;
    Ok(Line::new("finalize", installation).0)
}

/// Of `rollback`.
///
/// # Errors
/// As [`backup`].
pub(super) fn rollback(command: &Rollback, installation: &Installation) -> Result<Vec<String>> {
    let Rollback { installation: _, discard_writes, coordinator_is_gone, dry_run, in_time } = command;
    must_do(*dry_run)?;
    not_said(in_time)?;
    let line = Line::new("rollback", installation).flag("--discard-writes", *discard_writes);
    Ok(line.flag("--coordinator-is-gone", *coordinator_is_gone).0)
}

/// Of `cancel`.
///
/// # Errors
/// As [`backup`].
pub(super) fn cancel(command: &Cancel, installation: &Installation) -> Result<Vec<String>> {
    let Cancel { installation: _, coordinator_is_gone, leave_as_it_is, wait, in_time } = command;
    not_said(in_time)?;
    let line = Line::new("cancel", installation).flag("--coordinator-is-gone", *coordinator_is_gone);
    Ok(line.flag("--leave-as-it-is", *leave_as_it_is).value("--wait", Some(wait)).0)
}

/// Of any of them, once it is known when its Job is made: until when it may begin. So long its pod is waited for here (`deadline`, in seconds), and then it may
/// need [`UNTIL_IT_BEGINS`].
///
/// # Errors
/// `Internal` when the clock here is at the end of time.
pub(super) fn in_time(mut arguments: Vec<String>, now: Timestamp, deadline: u32) -> Result<Vec<String>> {
    let limit = SignedDuration::from_secs(i64::from(deadline)).saturating_add(UNTIL_IT_BEGINS);
    let before = now.checked_add(limit).and_then(|t| Timestamp::from_second(t.as_second()));
    let before = before.or_kind(Kind::Internal, "tell until when it may begin")?;
    arguments.extend(["--begin-before".to_owned(), before.to_string()]);
    Ok(arguments)
}

/// It was confirmed here, where there is a person.
fn confirmed(line: Line, installation: &Installation, run: RunId, with_identity: bool) -> Vec<String> {
    line.value("--yes", Some(installation))
        .value("--set-identity", with_identity.then_some(IDENTITY_FILE))
        .value("--run-id", Some(run))
        .0
}

/// The word of a value on the command line.
fn word(value: &impl ValueEnum) -> String {
    value.to_possible_value().map(|v| v.get_name().to_owned()).unwrap_or_default()
}

fn must_do(dry_run: bool) -> Result<()> {
    if dry_run {
        let text =
            "a plan is made where you sit: leave --in-cluster out (agents are reached by `kubectl port-forward`)";
        return Err(Error::new(Kind::Invalid, text));
    }
    Ok(())
}

fn not_said(in_time: &BeginBefore) -> Result<()> {
    not_given(in_time.begin_before.is_some(), "--begin-before")
}

fn not_given(given: bool, flag: &str) -> Result<()> {
    if given {
        let text = format!("{flag} is for the coordinator in the cluster, which --in-cluster gives it by itself");
        return Err(Error::new(Kind::Invalid, text));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Args, Command};

    fn parsed(line: &[&str]) -> Command {
        Args::try_parse_from(["keepsake"].iter().chain(line)).unwrap().command
    }

    fn ids() -> (Installation, SetId, RunId) {
        ("prod".parse().unwrap(), SetId::generate(), RunId::generate())
    }

    #[test]
    fn a_restore_is_handed_over_flag_by_flag() {
        let (name, set, run) = ids();
        let given = [
            "restore",
            "--set",
            "latest",
            "--component",
            "a",
            "--component",
            "b",
            "--queues",
            "b=drop",
            "--identity",
            "/home/alice.identity",
            "--no-safety",
            "--keep-old",
            "--other-release",
            "--resync",
            "rake",
            "--alert-levels",
            "left-alone",
            "--objects",
            "replace",
            "--replace-endpoints",
        ];
        let Command::Restore(command) = parsed(&given) else { panic!() };
        let line = restore(&command, &name, set, run, true).unwrap();
        assert!(!line.iter().any(|word| word.contains("alice")), "{line:?}");
        // What arrives there is what was said here, but for what belongs to here.
        let words: Vec<_> = line.iter().map(String::as_str).collect();
        let Command::Restore(there) = parsed(&words) else { panic!() };
        assert_eq!((there.set, there.run_id, there.yes.as_ref()), (set.to_string(), Some(run), Some(&name)));
        assert_eq!(there.set_identity.as_deref(), Some(std::path::Path::new(IDENTITY_FILE)));
        assert!(there.identities.is_empty());
        assert_eq!((there.components, &there.data.queues), (command.components, &command.data.queues));
        let data = &there.data;
        assert!(data.no_safety && data.keep_old && data.other_release && there.replace_endpoints && !data.in_place);
        assert_eq!(
            (data.resync, data.alert_levels, there.objects),
            (command.data.resync, command.data.alert_levels, command.objects)
        );
    }

    #[test]
    fn the_others_are_handed_over_as_well() {
        let (name, set, run) = ids();
        let said = |line: Vec<String>| line.join(" ");
        let Command::Backup(command) = parsed(&["backup", "--all", "--component", "a"]) else { panic!() };
        assert_eq!(
            said(backup(&command, &name, run).unwrap()),
            format!("backup --installation prod --component a --run-id {run}")
        );
        let Command::Resume(command) = parsed(&["resume", "--coordinator-is-gone", "--identity", "i"]) else {
            panic!()
        };
        let told = said(resume(&command, &name, run, false).unwrap());
        assert_eq!(told, format!("resume --installation prod --coordinator-is-gone --yes prod --run-id {run}"));
        let Command::Rebuild(command) = parsed(&["rebuild", "--no-safety", "--identity", "i"]) else { panic!() };
        let line = rebuild(&command, &name, set, run, true).unwrap();
        let words: Vec<_> = line.iter().map(String::as_str).collect();
        let Command::Rebuild(there) = parsed(&words) else { panic!() };
        assert_eq!((there.set.set, there.run_id, there.yes.as_ref()), (set.to_string(), Some(run), Some(&name)));
        assert!(there.data.no_safety && !there.objects_only && there.identities.is_empty());
        let Command::Rollback(command) = parsed(&["rollback", "--discard-writes"]) else { panic!() };
        assert_eq!(said(rollback(&command, &name).unwrap()), "rollback --installation prod --discard-writes");
        let Command::Cancel(command) = parsed(&["cancel", "--leave-as-it-is", "--wait", "7"]) else { panic!() };
        assert_eq!(said(cancel(&command, &name).unwrap()), "cancel --installation prod --leave-as-it-is --wait 7");
        let Command::Finalize(command) = parsed(&["finalize"]) else { panic!() };
        assert_eq!(said(finalize(&command, &name).unwrap()), "finalize --installation prod");
    }

    #[test]
    fn all_are_told_until_when_they_may_begin() {
        let (name, set, run) = ids();
        let now: Timestamp = "2026-03-01T12:00:00.5Z".parse().unwrap();
        for command in ["backup", "restore", "rebuild", "resume", "finalize", "rollback", "cancel"] {
            let line = match parsed(&[command]) {
                Command::Backup(command) => backup(&command, &name, run),
                Command::Restore(command) => restore(&command, &name, set, run, false),
                Command::Rebuild(command) => rebuild(&command, &name, set, run, false),
                Command::Resume(command) => resume(&command, &name, run, false),
                Command::Finalize(command) => finalize(&command, &name),
                Command::Rollback(command) => rollback(&command, &name),
                Command::Cancel(command) => cancel(&command, &name),
                other => panic!("{other:?}"),
            };
            let line = in_time(line.unwrap(), now, 600).unwrap();
            let words: Vec<_> = line.iter().map(String::as_str).collect();
            let (there, begin_before) = match parsed(&words) {
                Command::Backup(there) => (backup(&there, &name, run), there.in_time.begin_before),
                Command::Restore(there) => (restore(&there, &name, set, run, false), there.in_time.begin_before),
                Command::Rebuild(there) => (rebuild(&there, &name, set, run, false), there.in_time.begin_before),
                Command::Resume(there) => (resume(&there, &name, run, false), there.in_time.begin_before),
                Command::Finalize(there) => (finalize(&there, &name), there.in_time.begin_before),
                Command::Rollback(there) => (rollback(&there, &name), there.in_time.begin_before),
                Command::Cancel(there) => (cancel(&there, &name), there.in_time.begin_before),
                other => panic!("{other:?}"),
            };
            assert_eq!(begin_before, Some("2026-03-01T12:25:00Z".parse().unwrap()), "{command}");
            assert!(there.unwrap_err().chain().contains("is for the coordinator in the cluster"), "{command}");
        }
        assert_eq!(in_time(Vec::new(), Timestamp::MAX, 600).unwrap_err().kind(), Kind::Internal);
    }

    #[test]
    fn what_cannot_be_handed_over_is_refused() {
        let (name, set, run) = ids();
        let run_id = run.to_string();
        let refused = |line: &[&str]| match parsed(line) {
            Command::Backup(command) => backup(&command, &name, run).unwrap_err().chain(),
            Command::Restore(command) => restore(&command, &name, set, run, false).unwrap_err().chain(),
            other => panic!("{other:?}"),
        };
        assert!(refused(&["backup", "--dry-run"]).contains("where you sit"));
        assert!(refused(&["restore", "--dry-run"]).contains("where you sit"));
        assert!(refused(&["restore", "--set-identity", "f"]).contains("--set-identity"));
        assert!(refused(&["backup", "--run-id", &run_id]).contains("--run-id"));
    }
}
