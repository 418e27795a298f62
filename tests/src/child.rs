//! Child processes that cannot outlive the test.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

/// The user and group that servers run as when the test runs as root: `initdb` and `mysqld` refuse root.
pub const NOBODY: (u32, u32) = (65534, 65534);

/// Whether this process is root.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Gives a tree to the user that servers run as; nothing to do unless root.
pub fn give_to_servers(path: &Path) {
    if is_root() {
        let done = run(tool_command("chown").arg("-R").arg(format!("{}:{}", NOBODY.0, NOBODY.1)).arg(path));
        assert!(done.status.success(), "chown {}: {done:?}", path.display());
    }
}

/// A command that dies with this process, as the unprivileged user if this process is root.
pub fn server_command(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = mortal_command();
    if is_root() {
        command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]);
    }
    command.arg("--").arg(program);
    command
}

/// A command that dies with this process, as the same user.
pub fn tool_command(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = mortal_command();
    command.arg("--").arg(program);
    command
}

/// A command that is asked to end (SIGTERM) when this process dies: it has something to clean up.
pub fn with_last_will(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = ended_by("TERM");
    command.arg("--").arg(program);
    command
}

fn mortal_command() -> Command {
    ended_by("KILL")
}

#[expect(clippy::disallowed_methods, reason = "the tests' one place to start processes")]
fn ended_by(signal: &str) -> Command {
    // setpriv(1) is part of util-linux. The signal comes when the *thread* that starts the child ends: start from a test's
    // own thread, never from spawn_blocking.
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", signal]);
    command
}

/// Runs a command to its end.
pub fn run(command: &mut Command) -> std::process::Output {
    command.stdin(Stdio::null()).output().unwrap_or_else(|e| panic!("run {command:?}: {e}"))
}

/// Starts the command and kills it when it has said this.
///
/// # Panics
/// When it ends before.
pub fn killed_when(mut command: Command, said: &str) {
    command.stderr(Stdio::piped()).stdout(Stdio::null());
    let mut child = command.spawn().expect("start keepsake");
    let lines = BufReader::new(child.stderr.take().expect("stderr")).lines();
    let (mut all, mut found) = (Vec::new(), false);
    for line in lines.map_while(Result::ok) {
        found = line.contains(said);
        all.push(line);
        if found {
            kill_process(Pid::from_child(&child), Signal::KILL).expect("kill");
            break;
        }
    }
    let status = child.wait().expect("wait");
    assert!(found && !status.success(), "it ended before it said {said:?}: {all:#?}");
}

/// A server or agent that runs, killed when dropped. Its output is kept.
#[derive(Debug)]
pub struct Process {
    child: Child,
    name: String,
    output: Arc<Mutex<Vec<String>>>,
}

impl Process {
    /// Starts it in a process group of its own, keeping what it prints on both streams.
    pub fn start(name: &str, mut command: Command) -> Self {
        use std::os::unix::process::CommandExt;
        let mut child = command
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("start {name} ({command:?}): {e}"));
        let output = Arc::new(Mutex::new(Vec::new()));
        keep(child.stdout.take(), output.clone());
        keep(child.stderr.take(), output.clone());
        Self { child, name: name.to_owned(), output }
    }

    /// The process id.
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Its name in messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it has printed so far, a line each.
    pub fn output(&self) -> Vec<String> {
        self.output.lock().expect("output").clone()
    }

    /// Whether it has ended, and how.
    pub fn ended(&mut self) -> Option<std::process::ExitStatus> {
        self.child.try_wait().expect("wait for a child")
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        let _ended_already = kill_process(self.pid(), signal);
    }

    /// Kills it and its children at once and waits for its end.
    pub fn kill(&mut self) {
        let _ended_already = kill_process_group(self.pid(), Signal::KILL);
        let _status = self.child.wait();
    }

    /// The same, with children that are in no group of its: a server's, which would look after their parent only when they have nothing else to do.
    pub fn kill_with_children(&mut self) {
        let children = children(self.pid());
        self.kill();
        for child in children {
            let _ended_already = kill_process(child, Signal::KILL);
        }
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> std::process::ExitStatus {
        self.child.wait().expect("wait for a child")
    }
}

/// The children of a process, of all its threads; none of one that has ended.
pub fn children(of: Pid) -> Vec<Pid> {
    // What ends while it is looked at has none, and is none.
    let Ok(threads) = std::fs::read_dir(format!("/proc/{}/task", of.as_raw_nonzero())) else { return Vec::new() };
    let lists = threads.flatten().filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok());
    let pids: Vec<String> =
        lists.flat_map(|list| list.split_whitespace().map(str::to_owned).collect::<Vec<_>>()).collect();
    pids.iter().filter_map(|pid| pid.parse().ok()).filter_map(Pid::from_raw).collect()
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let lines = self.output();
            let from = lines.len().saturating_sub(30);
            for line in &lines[from..] {
                eprintln!("[{}] {line}", self.name);
            }
        }
    }
}

fn keep(pipe: Option<impl std::io::Read + Send + 'static>, output: Arc<Mutex<Vec<String>>>) {
    let Some(pipe) = pipe else { return };
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).into_owned();
            output.lock().expect("output").push(line);
        }
    });
}
