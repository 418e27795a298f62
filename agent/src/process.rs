//! Running a datastore's own tool: cleared environment, own process group, exit status asked for, nothing left behind.
//!
//! This is the only place that starts a process. A tool's stderr is kept as a short tail, each line passed through a filter
//! first: loading tools print the row that failed, and a row is somebody's data.

mod toolbox;

use std::ffi::{OsStr, OsString};
use std::process::Stdio;
use std::time::Duration;

use keepsake_core::error::{Error, Kind, Result, ResultExt};
use keepsake_core::secret::Secret;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::task::JoinHandle;

pub use toolbox::Toolbox;

/// Makes one line of stderr fit to be logged and sent, or drops it.
pub type StderrFilter = fn(&str) -> Option<String>;

/// How many lines of stderr are kept, the newest.
const TAIL_LINES: usize = 20;
/// How long a line may be; the rest of it is dropped.
const LINE_BYTES: usize = 400;

/// A tool to be run.
#[derive(Debug)]
pub struct Tool {
    name: String,
    command: Command,
    filter: StderrFilter,
    /// What is said of it when there is no such program.
    missing: String,
    /// Neither it nor what it started is ended with its handle.
    outlives: bool,
}

impl Tool {
    /// A tool found in the agent's `PATH`, with an environment that holds nothing but `PATH` and `LC_ALL=C.UTF-8`.
    pub fn new(program: &str) -> Self {
        Self::of(&Toolbox::default(), program)
    }

    /// The same with what the flags say of the tools: looked for in their folder first, and with their variables besides.
    #[expect(clippy::disallowed_methods, reason = "this is the one place that starts processes")]
    pub fn of(toolbox: &Toolbox, program: &str) -> Self {
        let mut command = Command::new(program);
        command.env_clear().envs(toolbox.variables());
        command.env("LC_ALL", "C.UTF-8").process_group(0).kill_on_drop(true);
        if let Some(path) = toolbox.path(std::env::var_os("PATH")) {
            command.env("PATH", path);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let filter = |line: &str| Some(line.to_owned());
        Self { name: program.to_owned(), command, filter, missing: toolbox.missing(), outlives: false }
    }

    /// One argument. Never a secret: every user of the machine can read it.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    /// Several arguments.
    #[must_use]
    pub fn args<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(mut self, args: I) -> Self {
        self.command.args(args);
        self
    }

    /// One variable of the environment.
    #[must_use]
    pub fn env(mut self, key: &str, value: impl Into<OsString>) -> Self {
        self.command.env(key, value.into());
        self
    }

    /// A secret in the environment of the child, where only its own user can read it.
    #[must_use]
    pub fn secret_env(mut self, key: &str, value: &Secret) -> Self {
        self.command.env(key, value.expose());
        self
    }

    /// Reads what the tool prints.
    #[must_use]
    pub fn read_stdout(mut self) -> Self {
        self.command.stdout(Stdio::piped());
        self
    }

    /// Feeds the tool.
    #[must_use]
    pub fn feed_stdin(mut self) -> Self {
        self.command.stdin(Stdio::piped());
        self
    }

    /// What may be told of the tool's stderr.
    #[must_use]
    pub fn stderr_filter(mut self, filter: StderrFilter) -> Self {
        self.filter = filter;
        self
    }

    /// For a command of the administrator's that starts a server: neither it nor the server is ended with its handle, what they say stands with the agent's
    /// own words, for as long as they live, and files that they make are not the agent's secrets, so they get the usual modes.
    #[must_use]
    pub fn starting_a_server(program: &str) -> Self {
        // The mode is the whole process's: only a shell between can have another.
        let mut tool = Self::new("sh").args(["-c", "umask 022 && exec \"$0\"", program]);
        tool.command.kill_on_drop(false).stderr(Stdio::inherit());
        program.clone_into(&mut tool.name);
        tool.outlives = true;
        tool
    }

    /// Starts it.
    ///
    /// # Errors
    /// `NotFound` when there is no such program, with what to do.
    pub fn start(mut self) -> Result<Running> {
        let mut child = self.command.spawn().map_err(|e| {
            if e.kind() == std::io::ErrorKind::NotFound {
                return Error::new(
                    Kind::NotFound,
                    format!(
                        "{} is {}: install the datastore's client tools beside the agent, or say where they are with --tool-dir",
                        self.name, self.missing
                    ),
                );
            }
            Error::io(format!("start {}", self.name), e)
        })?;
        let own = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        let group = own.filter(|_| !self.outlives);
        let stderr = child.stderr.take().map(|pipe| tokio::spawn(tail(pipe, self.filter)));
        Ok(Running {
            name: self.name,
            stdin: child.stdin.take(),
            stdout: child.stdout.take(),
            child,
            group: Group(group),
            stderr,
            outlives: self.outlives,
        })
    }

    /// Runs it to its end and returns what it printed, at most 1 MiB; for `--version` and the like.
    ///
    /// # Errors
    /// It cannot be started, does not end within 10 seconds, or ends with another status than 0.
    pub async fn output(self) -> Result<String> {
        use tokio::io::AsyncReadExt;
        let mut running = self.read_stdout().start()?;
        let name = running.name.clone();
        let mut out = Vec::new();
        let read = async {
            if let Some(pipe) = running.stdout.take() {
                pipe.take(1 << 20)
                    .read_to_end(&mut out)
                    .await
                    .map_err(|e| Error::io(format!("read from {name}"), e))?;
            }
            running.finish().await
        };
        tokio::time::timeout(Duration::from_secs(10), read)
            .await
            .or_kind(Kind::Timeout, format!("{name} did not end within 10 s"))??;
        String::from_utf8(out).or_kind(Kind::Internal, format!("{name} printed something that is not UTF-8"))
    }
}

/// A tool that runs. Dropped, it and all its children are killed.
#[derive(Debug)]
pub struct Running {
    name: String,
    /// What it reads; drop it to say the end.
    pub stdin: Option<ChildStdin>,
    /// What it prints.
    pub stdout: Option<ChildStdout>,
    child: Child,
    group: Group,
    stderr: Option<JoinHandle<Vec<String>>>,
    outlives: bool,
}

/// Kills the whole process group when dropped.
#[derive(Debug)]
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0.take() {
            // It may have ended already; then there is no such group, which is what is wanted.
            let _gone = kill_process_group(group, Signal::KILL);
        }
    }
}

impl Running {
    /// Waits for the end. Success is exit status 0 and nothing else.
    ///
    /// # Errors
    /// `Internal` for any other end, with the status and the filtered tail of stderr.
    pub async fn finish(mut self) -> Result<()> {
        drop(self.stdin.take());
        drop(self.stdout.take());
        let status = self.child.wait().await.map_err(|e| Error::io(format!("wait for {}", self.name), e))?;
        // Children of the tool that outlived it would keep stderr open: end them before reading its tail.
        drop(std::mem::replace(&mut self.group, Group(None)));
        let lines = match self.stderr.take() {
            Some(task) => task.await.or_kind(Kind::Internal, format!("read stderr of {}", self.name))?,
            None => Vec::new(),
        };
        if status.success() {
            for line in &lines {
                tracing::debug!(tool = %self.name, "{line}");
            }
            return Ok(());
        }
        let said = if self.outlives {
            "what it said is in the agent's log".to_owned()
        } else if lines.is_empty() {
            "it printed nothing".to_owned()
        } else {
            lines.join("; ")
        };
        Err(Error::new(Kind::Internal, format!("{} ended with {status}: {said}", self.name)))
    }
}

async fn tail(pipe: impl AsyncRead + Unpin, filter: StderrFilter) -> Vec<String> {
    let mut lines = std::collections::VecDeque::new();
    let mut reader = BufReader::new(pipe);
    let mut raw = Vec::new();
    loop {
        raw.clear();
        match read_line(&mut reader, &mut raw).await {
            Ok(true) => {}
            // The pipe is gone with the tool; its exit status tells the story.
            Ok(false) | Err(_) => break,
        }
        let Some(line) = filter(String::from_utf8_lossy(&raw).trim_end()) else { continue };
        if lines.len() == TAIL_LINES {
            lines.pop_front();
        }
        lines.push_back(line);
    }
    lines.into()
}

/// Reads one line, keeping at most [`LINE_BYTES`] of it: a failing INSERT can have megabytes.
async fn read_line(reader: &mut BufReader<impl AsyncRead + Unpin>, out: &mut Vec<u8>) -> std::io::Result<bool> {
    let mut any = false;
    loop {
        let available = reader.fill_buf().await?;
        if available.is_empty() {
            return Ok(any);
        }
        any = true;
        let end = available.iter().position(|b| *b == b'\n');
        let piece = available.get(..end.unwrap_or(available.len())).unwrap_or_default();
        let room = LINE_BYTES.saturating_sub(out.len());
        out.extend_from_slice(piece.get(..room.min(piece.len())).unwrap_or_default());
        let used = end.map_or(available.len(), |n| n + 1);
        reader.consume(used);
        if end.is_some() {
            return Ok(true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;

    #[tokio::test]
    async fn a_status_other_than_zero_is_an_error_with_the_tail() {
        let error =
            Tool::new("sh").args(["-c", "echo broken >&2; exit 3"]).start().unwrap().finish().await.unwrap_err();
        assert!(error.chain().contains("exit status: 3: broken"), "{}", error.chain());
    }

    #[tokio::test]
    async fn the_environment_is_cleared() {
        let out = Tool::new("env").output().await.unwrap();
        let names: Vec<_> = out.lines().filter_map(|l| l.split('=').next()).collect();
        assert!(names.iter().all(|n| matches!(*n, "PATH" | "LC_ALL")), "{names:?}");
    }

    /// Writes a program that can be run: under another name first, for one that is still being written cannot be.
    fn script(path: &std::path::Path, text: &str) {
        use std::os::unix::fs::PermissionsExt as _;
        let beside = path.with_extension("new");
        std::fs::write(&beside, text).unwrap();
        std::fs::set_permissions(&beside, std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::rename(&beside, path).unwrap();
    }

    #[tokio::test]
    async fn tools_are_found_in_their_folder_first_and_have_their_variables() {
        let folder = tempfile::tempdir().unwrap();
        // One that the PATH has, too, and one that it has not.
        for name in ["env", "dump-of-a-collection"] {
            script(
                &folder.path().join(name),
                "#!/bin/sh\necho \"own $LD_LIBRARY_PATH $LC_ALL $SECOND\"\necho \"$PATH\"\n",
            );
        }
        let toolbox = Toolbox {
            tool_dir: Some(folder.path().to_path_buf()),
            tool_env: ["LD_LIBRARY_PATH=/opt/lib64", "LC_ALL=de_DE", "SECOND=2"].map(str::to_owned).to_vec(),
        };
        for name in ["env", "dump-of-a-collection"] {
            let out = Tool::of(&toolbox, name).output().await.unwrap();
            let lines: Vec<_> = out.lines().collect();
            assert_eq!(lines[0], "own /opt/lib64 C.UTF-8 2", "{name}");
            assert!(lines[1].starts_with(&format!("{}:", folder.path().display())), "{name}: {}", lines[1]);
        }
        // What is in the PATH alone is found all the same; what is nowhere is told with both places.
        let out = Tool::of(&toolbox, "sh").args(["-c", "echo $SECOND"]).output().await.unwrap();
        assert_eq!(out, "2\n");
        let told = Tool::of(&toolbox, "no-such-tool-of-keepsake").start().unwrap_err().chain();
        assert!(told.contains(&folder.path().display().to_string()) && told.contains("PATH"), "{told}");
        assert!(!Tool::new("env").output().await.unwrap().contains("own"), "other tools know nothing of it");
    }

    #[tokio::test]
    async fn dropping_ends_the_tool_and_its_children() {
        let mut running = Tool::new("sh").args(["-c", "sleep 1000 & echo $!; wait"]).read_stdout().start().unwrap();
        let mut first = [0_u8; 32];
        let n = running.stdout.as_mut().unwrap().read(&mut first).await.unwrap();
        let child: i32 = std::str::from_utf8(&first[..n]).unwrap().trim().parse().unwrap();
        drop(running);
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
    async fn a_server_that_was_started_outlives_the_command_and_makes_files_with_the_usual_modes() {
        let scratch = tempfile::tempdir().unwrap();
        let start = scratch.path().join("start");
        let pid = scratch.path().join("pid");
        script(&start, &format!("#!/bin/sh\nsleep 1000 &\necho $! > {0}.new; mv {0}.new {0}; umask\n", pid.display()));
        let path = start.to_str().unwrap();
        Tool::starting_a_server(path).start().unwrap().finish().await.unwrap();
        let server: i32 = std::fs::read_to_string(&pid).unwrap().trim().parse().unwrap();
        let status = std::fs::read_to_string(format!("/proc/{server}/status")).unwrap();
        let _ended = rustix::process::kill_process(Pid::from_raw(server).unwrap(), Signal::KILL);
        assert!(status.contains("Umask:\t0022"), "{status}");
        let error = Tool::starting_a_server("false").start().unwrap().finish().await.unwrap_err();
        assert!(error.chain().contains("false ended with exit status: 1"), "{}", error.chain());
    }

    #[tokio::test]
    async fn a_missing_tool_says_what_to_do() {
        let error = Tool::new("no-such-tool-of-keepsake").start().unwrap_err();
        assert_eq!(error.kind(), Kind::NotFound);
        assert!(error.chain().contains("install"));
    }
}
