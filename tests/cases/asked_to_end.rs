//! An agent that is asked to end while it starts: whenever SIGTERM comes, it ends, and in an orderly way.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use keepsake_proto::tls::TlsFiles;
use keepsake_tests::certs::Authority;
use keepsake_tests::child::{Process, run, tool_command};
use keepsake_tests::house::programs;
use keepsake_tests::lone_agent::NAME;
use keepsake_tests::poll::wait_for;
use keepsake_tests::scratch::{Scratch, free_port};
use rustix::fs::OFlags;
use rustix::process::{Pid, Signal, kill_process};

/// An agent that was asked has twenty seconds for what it does; these do nothing.
const PATIENCE: Duration = Duration::from_secs(15);
const ASKED: &str = "asked to end: operations are cancelled";

/// An agent of files, which needs no server.
struct Home {
    scratch: Scratch,
    files: TlsFiles,
}

impl Home {
    fn new() -> Self {
        let scratch = Scratch::new();
        let files = Authority::new("ca").issue(&scratch.path().join("agent"), NAME);
        for folder in ["repository", "volume", "tmp"] {
            scratch.folder(folder, 0o700);
        }
        Self { scratch, files }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    fn agent(&self, listen: &str, admin: &str, patient: bool) -> Command {
        let mut command = tool_command(programs().join("keepsake-agent"));
        command.args(["--installation", "prod", "--component", "system-storage", "--log", "debug"]);
        command.args(["--listen", listen, "--admin", admin, "--allow", "backup=coordinator.keepsake"]);
        command.arg("--tls-ca").arg(&self.files.ca).arg("--tls-cert").arg(&self.files.cert);
        command.arg("--tls-key").arg(&self.files.key).arg("--scratch").arg(self.path("tmp"));
        command.arg("--repository").arg(format!("file://{}", self.path("repository").display()));
        command.args(patient.then_some("--patient")).arg("files").arg("--files-root").arg(self.path("volume"));
        command
    }
}

const ANY: &str = "127.0.0.1:0";

#[tokio::test]
async fn an_agent_that_is_asked_to_end_between_two_of_its_phases_ends() {
    for patient in [true, false] {
        let home = Home::new();
        let ca = std::fs::read(&home.files.ca).expect("read the CA");
        std::fs::remove_file(&home.files.ca).expect("take the CA away");
        // Whoever reads it waits until somebody writes: the agent is held there, behind its first phase and before its second.
        assert!(run(tool_command("mkfifo").arg(&home.files.ca)).status.success());
        let mut agent = Process::start("agent", home.agent(ANY, ANY, patient));
        let mut held = wait_for("the agent to read its CA", PATIENCE, async || {
            let ended = agent.ended();
            assert!(ended.is_none(), "it has ended ({ended:?})");
            OpenOptions::new().write(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed()).open(&home.files.ca)
        })
        .await;
        agent.signal(Signal::TERM);
        held.write_all(&ca).expect("give it the CA");
        drop(held);
        must_end(&mut agent).await;
        let told = agent.output();
        assert!(told.iter().any(|line| line.contains("listening")), "it was held too late or too early: {told:#?}");
        assert!(told.iter().any(|line| line.contains(ASKED)), "{told:#?}");
    }
}

#[tokio::test]
async fn an_agent_that_is_asked_to_end_while_it_waits_to_try_again_ends() {
    let home = Home::new();
    std::fs::remove_file(&home.files.key).expect("take the key away");
    let (mut agent, _rest) = asked_at_line(home.agent(ANY, ANY, true), "not started, tried again");
    must_end_well(&mut agent).await;
    // Nothing that could be tried again.
    let mut command = home.agent(ANY, ANY, true);
    command.env("KEEPSAKE_PATIENT", "true").env("KEEPSAKE_ADMIN", ANY).arg("--no-such-flag");
    let (mut agent, _rest) = asked_at_line(command, "not tried again in this container");
    must_end_well(&mut agent).await;
}

/// From the moment on at which anything is seen of it. (Before that the program is not its own yet: it has no listener, and the system ends it.)
#[tokio::test]
async fn an_agent_that_is_asked_to_end_at_any_line_of_its_start_ends() {
    let home = Home::new();
    for patient in [true, false] {
        for line in 1.. {
            let mut command = home.agent(ANY, ANY, patient);
            let mut child = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().expect("start the agent");
            let mut told = BufReader::new(child.stderr.take().expect("stderr"));
            let mut last = String::new();
            for _ in 0..line {
                last.clear();
                told.read_line(&mut last).expect("read what it says");
            }
            kill_process(Pid::from_child(&child), Signal::TERM).expect("SIGTERM");
            drained(told);
            must_end_well(&mut child).await;
            if last.contains("listening") {
                break;
            }
            assert!(!last.is_empty(), "it has ended before it listened");
        }
    }
}

#[tokio::test]
async fn an_agent_that_is_asked_to_end_when_it_answers_first_ends() {
    let home = Home::new();
    for patient in [true, false] {
        // Probes are answered before the agent is.
        for admin_first in [true, false] {
            for _ in 0..8 {
                let [listen, admin] = [free_port(), free_port()];
                let [at, probes] = [listen, admin].map(|port| format!("127.0.0.1:{port}"));
                let mut command = home.agent(&at, &probes, patient);
                let mut child = command.stderr(Stdio::null()).stdout(Stdio::null()).spawn().expect("start the agent");
                let end = Instant::now() + PATIENCE;
                while TcpStream::connect(if admin_first { &probes } else { &at }).is_err() {
                    assert!(Instant::now() < end, "it does not listen");
                    std::thread::yield_now();
                }
                kill_process(Pid::from_child(&child), Signal::TERM).expect("SIGTERM");
                must_end_well(&mut child).await;
            }
        }
    }
}

/// Reads until it has said this, then asks it to end.
fn asked_at_line(mut command: Command, words: &str) -> (Child, File) {
    let mut child = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().expect("start the agent");
    let stream = File::from(std::os::fd::OwnedFd::from(child.stderr.take().expect("stderr")));
    let mut told = BufReader::new(stream.try_clone().expect("read it twice"));
    let mut line = String::new();
    while !line.contains(words) {
        line.clear();
        let n = told.read_line(&mut line).expect("read what it says");
        assert!(n > 0, "it has ended before it said {words}");
    }
    kill_process(Pid::from_child(&child), Signal::TERM).expect("SIGTERM");
    (child, stream)
}

/// What it says besides must not stop it.
fn drained(mut stream: impl Read + Send + 'static) {
    std::thread::spawn(move || std::io::copy(&mut stream, &mut std::io::sink()));
}

async fn must_end(agent: &mut Process) {
    let ended = wait_for("the agent to end", PATIENCE, async || agent.ended().ok_or("it has not heard it")).await;
    assert!(ended.success(), "{ended}: {:#?}", agent.output());
}

async fn must_end_well(child: &mut Child) {
    let ended = wait_for("the agent to end", PATIENCE, async || {
        child.try_wait().expect("wait for it").ok_or("it has not heard it")
    });
    let ended = ended.await;
    assert!(ended.success(), "it ended by {ended}");
}
