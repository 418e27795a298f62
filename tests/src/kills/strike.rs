//! Who is struck, how, and what whoever is responsible does about it.

use std::process::ExitStatus;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::watched::{Watched, Word};
use super::{Blow, Victim};
use crate::child::children;
use crate::house::{COMPONENTS, House};

/// Programs that agents start.
const TOOLS: [&str; 7] = ["mariadb-dump", "mysqldump", "mariadb", "mysql", "pg_dump", "pg_restore", "psql"];

/// What became of a run that was to be struck.
#[derive(Debug)]
pub struct Fate {
    /// Whether the victim was there.
    pub struck: bool,
    /// Victim and blow.
    pub blow: (Victim, Blow),
    /// The event that it fell after: of a tool, the first from the one that was asked for on that a tool ran after.
    pub place: String,
    /// Its number.
    pub event: usize,
    /// How the coordinator ended.
    pub status: ExitStatus,
    /// Everything that it said.
    pub said: Vec<String>,
    /// Tools that ran when their agent was struck, or that were struck.
    pub tools: Vec<Pid>,
}

impl Fate {
    /// In a few words.
    pub fn told(&self) -> String {
        if self.struck { self.status.to_string() } else { format!("no such victim, {}", self.status) }
    }
}

/// Runs to the event, strikes, and sees to it that the run comes to an end. `again` is the operation as it is typed.
pub fn strike(
    house: &mut House,
    again: &[String],
    mut run: Watched,
    event: usize,
    (victim, blow): (Victim, Blow),
    what: &str,
) -> Fate {
    let mut place = String::new();
    for n in 0..=event {
        place = run.next_event().unwrap_or_else(|| panic!("{what}: it ended after {n} events: {:#?}", run.said()));
    }
    let named = COMPONENTS.into_iter().find(|c| place.split(' ').next().is_some_and(|step| step.ends_with(c)));
    let component = named.unwrap_or(COMPONENTS[event % COMPONENTS.len()]);
    let mut event = event;
    let (struck, tools) = match victim {
        Victim::Coordinator => coordinator(house, again, &mut run, blow, what),
        Victim::Agent => agent(house, &mut run, component, blow, what),
        Victim::Tool => tool(house, &mut run, (&mut event, &mut place), blow, what),
    };
    let status = run.end();
    if struck && blow == Blow::StopForAWhile && victim != Victim::Coordinator {
        // One that does not answer while the cut is made is not in it, nor in the set; one that stops to answer in the middle of it costs the set.
        let said = |words: &str| run.said().iter().any(|line| line.contains(words));
        let left_out = match status.code() {
            Some(4) => said(&format!("dump-{component} FAILED")),
            Some(1) => said("cut FAILED"),
            _ => false,
        };
        assert!(left_out || status.success(), "{what}: it was only slower, and ended with {status}: {:#?}", run.said());
    }
    Fate { struck, blow: (victim, blow), place, event, status, said: run.said().to_vec(), tools }
}

fn coordinator(house: &House, again: &[String], run: &mut Watched, blow: Blow, what: &str) -> (bool, Vec<Pid>) {
    if blow == Blow::Kill {
        run.signal(Signal::KILL);
        return (true, Vec::new());
    }
    run.signal(Signal::STOP);
    // It is ended for it, another one works; only then does it wake.
    end_for_it(house, what);
    house.must(again);
    run.signal(Signal::CONT);
    (true, Vec::new())
}

/// As the runbook says for a coordinator that is gone: the run is given up, and where it can only go on, it is brought to its end. There may be nothing to
/// end: its last word was durable.
pub fn end_for_it(house: &House, what: &str) {
    let ended = house.keepsake(&["cancel", "--coordinator-is-gone"]);
    let told = String::from_utf8_lossy(&ended.stderr);
    // Status 4: what was loaded over live data stays.
    if matches!(ended.status.code(), Some(0 | 4)) || told.contains("no run of prod is unfinished") {
        return;
    }
    assert!(told.contains("can only go on"), "{what}: cancel ended with {}: {told}", ended.status);
    let resumed = house.keepsake(&["resume", "--coordinator-is-gone"]);
    let told = String::from_utf8_lossy(&resumed.stderr);
    assert!(resumed.status.success(), "{what}: resume ended with {}: {told}", resumed.status);
}

fn agent(house: &mut House, run: &mut Watched, component: &str, blow: Blow, what: &str) -> (bool, Vec<Pid>) {
    let agent = house.installations[0].agent(component);
    agent.process().signal(Signal::STOP);
    // Stopped it starts none: these are all.
    let tools = tools_of(agent.process().pid());
    if blow != Blow::Kill {
        run.until_only(component);
    }
    if blow == Blow::StopForAWhile {
        agent.process().signal(Signal::CONT);
        return (true, tools);
    }
    if blow == Blow::StopUntilCancelled {
        end_its_run(house, run, "30", what);
    }
    house.installations[0].agent(component).replace();
    (true, tools)
}

/// Strikes the first tool that runs from the event on: after most events none does, and a run of its own for each of them would show nothing.
fn tool(
    house: &mut House,
    run: &mut Watched,
    (event, place): (&mut usize, &mut String),
    blow: Blow,
    what: &str,
) -> (bool, Vec<Pid>) {
    let agents: Vec<(String, Pid)> =
        house.installations[0].agents.iter().map(|a| (a.component.clone(), a.process().pid())).collect();
    let found = loop {
        let found = agents.iter().find_map(|(component, pid)| Some((component, tools_of(*pid).into_iter().next()?)));
        if let Some(found) = found {
            break found;
        }
        // Tools of so small stores are gone soon: look again as soon as possible.
        match run.word(Duration::from_micros(200)) {
            Word::Nothing => {}
            Word::Event(next) => {
                *event += 1;
                *place = next;
            }
            Word::End => return (false, Vec::new()),
        }
    };
    let (component, pid) = found;
    let signal = if blow == Blow::Kill { Signal::KILL } else { Signal::STOP };
    // Between looking and striking it may have ended.
    if kill_process(pid, signal).is_err() {
        return (false, Vec::new());
    }
    if blow != Blow::Kill {
        run.until_only(component);
    }
    match blow {
        Blow::Kill => {}
        Blow::StopForAWhile => {
            let _ended = kill_process(pid, Signal::CONT);
        }
        Blow::StopForEver | Blow::StopUntilCancelled => end_its_run(house, run, "5", what),
    }
    (true, vec![pid])
}

/// Who hangs hangs the run: the operator cancels it. A load over live data is not cut short by that, so then the agents are told.
/// `patience` is in seconds.
fn end_its_run(house: &House, run: &Watched, patience: &str, what: &str) {
    let cancelled = house.keepsake(&["cancel", "--wait", patience]);
    if !cancelled.status.success() {
        end_for_it(house, &format!("{what}, {:?}", run.said().last()));
    }
}

/// Tools that this agent has running.
fn tools_of(agent: Pid) -> Vec<Pid> {
    children(agent).into_iter().filter(|pid| TOOLS.contains(&program(*pid).as_str())).collect()
}

/// The name of the program that a process runs; empty for one that has ended.
pub fn program(pid: Pid) -> String {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())) else {
        return String::new();
    };
    let (name, rest) = stat.split_once('(').and_then(|(_, r)| r.rsplit_once(") ")).unwrap_or_default();
    if rest.starts_with('Z') { String::new() } else { name.to_owned() }
}

/// Those of the processes that still run a tool.
pub fn still_running(tools: &[Pid]) -> Vec<String> {
    let running = tools.iter().map(|pid| (pid, program(*pid))).filter(|(_, name)| TOOLS.contains(&name.as_str()));
    running.map(|(pid, name)| format!("{name} {}", pid.as_raw_nonzero())).collect()
}

/// Tools of all agents of the installation.
pub fn all_tools(house: &House) -> Vec<Pid> {
    house.installations[0].agents.iter().flat_map(|a| tools_of(a.process().pid())).collect()
}
