//! A run of the coordinator, watched by the events that it tells.

use std::io::{BufRead, BufReader};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::house::House;

/// No run of these small stores takes so long by itself.
const LIMIT: Duration = Duration::from_secs(150);

/// A coordinator at work. Killed when dropped.
#[derive(Debug)]
pub struct Watched {
    child: Child,
    lines: Receiver<String>,
    said: Vec<String>,
    /// Steps that were told to have begun and not to have ended.
    open: Vec<String>,
}

/// What came within a moment.
#[derive(Debug)]
pub enum Word {
    /// An event.
    Event(String),
    /// Nothing yet.
    Nothing,
    /// It has closed its stderr: it is at its end.
    End,
}

impl Watched {
    /// Starts `keepsake`.
    pub fn start(house: &House, arguments: &[String]) -> Self {
        let mut command = house.command();
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("start keepsake");
        let stderr = child.stderr.take().expect("its stderr");
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self { child, lines, said: Vec::new(), open: Vec::new() }
    }

    /// What comes within `patience`; lines that are no events are kept and passed over.
    pub fn word(&mut self, patience: Duration) -> Word {
        let end = Instant::now() + patience;
        loop {
            match self.lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    self.said.push(line.clone());
                    if let Some(event) = line.strip_prefix("prod: ") {
                        self.note(event);
                        return Word::Event(event.to_owned());
                    }
                }
                Err(RecvTimeoutError::Timeout) => return Word::Nothing,
                Err(RecvTimeoutError::Disconnected) => return Word::End,
            }
        }
    }

    /// The next event; `None` at the end.
    ///
    /// # Panics
    /// When nothing comes for far too long.
    pub fn next_event(&mut self) -> Option<String> {
        match self.word(LIMIT) {
            Word::Event(event) => Some(event),
            Word::End => None,
            Word::Nothing => panic!("the coordinator has said nothing for {LIMIT:?}: {:#?}", self.said),
        }
    }

    fn note(&mut self, event: &str) {
        let (step, rest) = event.split_once(' ').unwrap_or((event, ""));
        if rest == "started" {
            self.open.push(step.to_owned());
        } else {
            self.open.retain(|open| open != step);
        }
    }

    /// Reads on until nothing but steps of this component goes on, or the end has come.
    pub fn until_only(&mut self, component: &str) {
        // Between two stages nothing goes on, and the next begins without the component.
        while self.open.is_empty() || self.open.iter().any(|step| !waits_for(step, component)) {
            if self.next_event().is_none() {
                return;
            }
        }
    }

    /// Everything that it said.
    pub fn said(&self) -> &[String] {
        &self.said
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        // One that has just ended is none that can be struck.
        let _ended = kill_process(Pid::from_child(&self.child), signal);
    }

    /// Reads to its end, and gives its status.
    pub fn end(&mut self) -> ExitStatus {
        while self.next_event().is_some() {}
        self.child.wait().expect("wait for keepsake")
    }
}

/// Whether a step of this name needs this component: what Backend's Config must be is asked of System's database.
fn waits_for(step: &str, component: &str) -> bool {
    step.ends_with(component) || (component == "system-mysql" && step.contains("-config-"))
}

impl Drop for Watched {
    fn drop(&mut self) {
        let _ended_already = self.child.kill();
        let _status = self.child.wait();
    }
}
