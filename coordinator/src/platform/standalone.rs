//! No cluster: the administrator's own commands stop and start the applications.
//!
//! A command is a program and its arguments, without a shell, in an environment that holds nothing but PATH and what it is about. It has a process group of its
//! own: Ctrl-C at the terminal does not reach it, and when its time is over all of it is killed.

use std::process::Stdio;
use std::time::Duration;

use async_trait::async_trait;
use keepsake_core::error::{Context, Error, Kind, Result};
use keepsake_core::id::RunKey;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;

use super::{Platform, Stopped};
use crate::topology::Hooks;

/// So much of what a command said last is told when it fails.
const TAIL: usize = 2_000;

/// The commands of one installation.
#[derive(Debug)]
pub struct Standalone<'a> {
    hooks: &'a Hooks,
}

impl<'a> Standalone<'a> {
    /// By these commands.
    pub fn new(hooks: &'a Hooks) -> Self {
        Self { hooks }
    }

    async fn all(&self, what: &str, commands: &[Vec<String>], run: &RunKey) -> Result<()> {
        let deadline = Duration::from_secs(self.hooks.deadline.into());
        for argv in commands {
            one(argv, run, deadline).await.with_context(|| format!("hook `{what}` of {}", run.installation))?;
        }
        Ok(())
    }
}

#[async_trait]
impl Platform for Standalone<'_> {
    async fn quiesce_but(&self, run: &RunKey, keeps: &[String]) -> Result<Vec<Stopped>> {
        if !keeps.is_empty() {
            return Err(super::only_in_a_cluster());
        }
        // What they have stopped only their writer knows.
        self.all("quiesce", &self.hooks.quiesce, run).await.map(|()| Vec::new())
    }

    async fn resume(&self, run: &RunKey) -> Result<()> {
        self.all("resume", &self.hooks.resume, run).await
    }
}

/// Kills the whole process group when dropped.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0.take() {
            // It may have ended already; then there is no such group, which is what is wanted.
            let _gone = kill_process_group(group, Signal::KILL);
        }
    }
}

/// The output of a command that was killed is waited for so long.
const LAST_WORDS: Duration = Duration::from_secs(2);

#[expect(clippy::disallowed_methods, reason = "the one place of the coordinator that starts processes")]
async fn one(argv: &[String], run: &RunKey, deadline: Duration) -> Result<()> {
    let name = argv.join(" ");
    let [program, arguments @ ..] = argv else { return Ok(()) };
    let mut command = Command::new(program);
    command.args(arguments).env_clear().process_group(0).kill_on_drop(true);
    if let Some(path) = std::env::var_os("PATH") {
        command.env("PATH", path);
    }
    command.env("KEEPSAKE_INSTALLATION", run.installation.as_str()).env("KEEPSAKE_RUN", run.run.to_string());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|e| Error::io(format!("start {name}"), e))?;
    let mut group = Group(child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw));
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let said = tokio::spawn(async move {
        let (out, err) = tokio::join!(tail(out), tail(err));
        [out, err].into_iter().filter(|s| !s.is_empty()).collect::<Vec<_>>().join("; ")
    });
    let ended = tokio::time::timeout(deadline, child.wait()).await;
    if matches!(&ended, Ok(Ok(status)) if status.success()) {
        // What it left running is an application that it has started: that lives on, and what it prints is nobody's business here.
        group.0 = None;
        said.abort();
        return Ok(());
    }
    // What it left running would hold its output open.
    drop(group);
    let stop = said.abort_handle();
    let said = if let Ok(said) = tokio::time::timeout(LAST_WORDS, said).await {
        said.unwrap_or_else(|e| format!("what it said cannot be told: {e}"))
    } else {
        // A process that has left the group holds its output open: it is not waited for.
        stop.abort();
        "what it said cannot be told: something that it started holds its output open".to_owned()
    };
    let said = if said.is_empty() { "it printed nothing".to_owned() } else { said };
    match ended {
        Ok(Ok(status)) => Err(Error::new(Kind::Internal, format!("{name} ended with {status}: {said}"))),
        Ok(Err(e)) => Err(Error::io(format!("wait for {name}"), e)),
        Err(_) => Err(Error::new(
            Kind::Timeout,
            format!("{name} did not end within {deadline:?} and was killed with all that it started: {said}"),
        )),
    }
}

/// The end of what is printed, with a mark where something is left out.
async fn tail(pipe: Option<impl AsyncRead + Unpin>) -> String {
    let Some(mut pipe) = pipe else { return String::new() };
    let (mut kept, mut cut, mut buffer) = (Vec::new(), false, [0_u8; 4096]);
    // When the pipe cannot be read any more, the exit status tells the story.
    while let Ok(n @ 1..) = pipe.read(&mut buffer).await {
        kept.extend_from_slice(buffer.get(..n).unwrap_or_default());
        let surplus = kept.len().saturating_sub(TAIL);
        cut |= surplus > 0;
        kept.drain(..surplus);
    }
    let text = String::from_utf8_lossy(&kept);
    let text = text.lines().map(str::trim_end).filter(|l| !l.is_empty()).collect::<Vec<_>>().join("; ");
    if cut { format!("… {text}") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use keepsake_core::id::{Epoch, RunId};

    fn sh(script: &str) -> Vec<String> {
        ["sh", "-c", script].map(str::to_owned).to_vec()
    }

    async fn quiesce(commands: Vec<Vec<String>>, deadline: u32) -> Result<()> {
        let hooks = Hooks { quiesce: commands, resume: vec![sh("true")], deadline };
        let run = RunKey { run: RunId::generate(), installation: "prod".parse().unwrap(), epoch: Epoch(3) };
        Standalone::new(&hooks).quiesce(&run).await.map(drop)
    }

    #[tokio::test]
    async fn commands_run_one_after_another_with_nothing_but_what_they_are_about() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("said");
        let commands = vec![
            sh(&format!("env > {0}; pwd >> {0}", file.display())),
            sh(&format!("test -s {} && echo second >> {0}", file.display())
                .replace("{0}", &file.display().to_string())),
        ];
        quiesce(commands, 10).await.unwrap();
        let said = std::fs::read_to_string(&file).unwrap();
        let names: Vec<_> = said.lines().filter_map(|l| l.split_once('=')).map(|(n, _)| n).collect();
        // PWD and the like are the shell's own.
        let own = ["PWD", "OLDPWD", "SHLVL", "_"];
        let mut given: Vec<_> = names.into_iter().filter(|n| !own.contains(n)).collect();
        given.sort_unstable();
        assert_eq!(given, ["KEEPSAKE_INSTALLATION", "KEEPSAKE_RUN", "PATH"]);
        assert!(said.contains("KEEPSAKE_INSTALLATION=prod") && said.ends_with("second\n"), "{said}");
    }

    #[tokio::test]
    async fn a_command_that_fails_ends_the_hook_and_tells_the_end_of_what_it_said() {
        let folder = tempfile::tempdir().unwrap();
        let never = folder.path().join("never");
        let many = "i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); done; echo at last >&2; exit 7";
        let error = quiesce(vec![sh(many), sh(&format!("touch {}", never.display()))], 60).await.unwrap_err();
        let told = error.chain();
        assert!(told.contains("exit status: 7") && told.contains("at last") && told.contains("line 2999"), "{told}");
        assert!(told.contains("quiesce") && told.contains("prod"), "{told}");
        assert!(told.len() < 2 * TAIL + 500 && !told.contains("line 1;"), "{} bytes", told.len());
        assert!(!never.try_exists().unwrap(), "the next command was run all the same");
        let error = quiesce(vec![vec!["no-such-program-of-keepsake".to_owned()]], 5).await.unwrap_err();
        assert_eq!(error.kind(), Kind::NotFound, "{}", error.chain());
    }

    #[tokio::test]
    async fn a_command_whose_time_is_over_is_killed_with_its_children() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pid");
        let script = format!("sleep 1000 & echo $! > {}; echo waiting; wait", file.display());
        let error = quiesce(vec![sh(&script)], 1).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Timeout);
        assert!(error.chain().contains("waiting"), "{}", error.chain());
        let child: i32 = std::fs::read_to_string(&file).unwrap().trim().parse().unwrap();
        let gone = || match std::fs::read_to_string(format!("/proc/{child}/stat")) {
            Ok(stat) => stat.contains(") Z"),
            Err(_) => true,
        };
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        while !gone() {
            assert!(std::time::Instant::now() < deadline, "the grandchild {child} lives on");
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_command_that_fails_is_not_waited_for_because_of_what_it_left() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pid");
        // A daemon in a group of its own, with the command's output still open.
        let script = format!(
            "setsid sh -c 'echo $$ > {0}; exec sleep 1000' & until test -s {0}; do :; done; exit 3",
            file.display()
        );
        let failed = tokio::time::timeout(Duration::from_secs(20), quiesce(vec![sh(&script)], 10)).await;
        let error = failed.expect("the hook ends").unwrap_err();
        let child: i32 = std::fs::read_to_string(&file).unwrap().trim().parse().unwrap();
        rustix::process::kill_process(Pid::from_raw(child).unwrap(), Signal::KILL).unwrap();
        assert!(error.chain().contains("exit status: 3"), "{}", error.chain());
    }

    #[tokio::test]
    async fn what_a_command_has_started_and_left_lives_on() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pid");
        quiesce(vec![sh(&format!("sleep 1000 & echo $! > {}", file.display()))], 5).await.unwrap();
        let child: i32 = std::fs::read_to_string(&file).unwrap().trim().parse().unwrap();
        let child = Pid::from_raw(child).unwrap();
        rustix::process::test_kill_process(child).expect("the application was killed with its hook");
        rustix::process::kill_process(child, Signal::KILL).unwrap();
    }
}
