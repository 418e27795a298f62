//! Kill loops: agent, tool and coordinator are killed or stopped at every event of a backup and of a restore of a whole installation.
//!
//! Where something happens is an event that the coordinator tells; nothing is slept for. How many there are is learned from a run that nobody
//! disturbs. After each blow: no record without its data, nothing of the victims left, the next run works.

mod aftermath;
mod strike;
mod watched;

use std::time::Instant;

pub(crate) use self::strike::end_for_it;
pub use self::watched::Watched;
use crate::house::{House, State};
use crate::threescale::Size;

/// What is being done when the blow falls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// `keepsake backup`
    Backup,
    /// `keepsake restore`, over wrecked stores.
    Restore,
}

/// Who is struck.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Victim {
    /// The agent that the event is about; of others, one after the other.
    Agent,
    /// The first tool that runs after the event, be it after a later one.
    Tool,
    /// `keepsake` itself.
    Coordinator,
}

/// With what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Blow {
    /// SIGKILL. An agent is started again at once, as whoever supervises it would.
    Kill,
    /// SIGSTOP, and SIGCONT when all is done that can be done without the victim; a coordinator: when another has taken over.
    StopForAWhile,
    /// SIGSTOP. An agent is replaced when all is done that can be done without it; a tool's run is ended by `keepsake cancel`.
    StopForEver,
    /// SIGSTOP of an agent that nobody replaces before the run was ended by `keepsake cancel`. Takes a quarter of a minute.
    StopUntilCancelled,
}

/// Every blow that is tried at an event. A coordinator that is stopped for ever is like one that is killed.
pub const BLOWS: [(Victim, Blow); 8] = [
    (Victim::Coordinator, Blow::Kill),
    (Victim::Agent, Blow::Kill),
    (Victim::Tool, Blow::Kill),
    (Victim::Coordinator, Blow::StopForAWhile),
    (Victim::Agent, Blow::StopForAWhile),
    (Victim::Tool, Blow::StopForAWhile),
    (Victim::Agent, Blow::StopForEver),
    (Victim::Tool, Blow::StopForEver),
];

/// How far apart the blows are that are tried: `KEEPSAKE_SOAK`, where 1 is all of them; else what is given.
pub fn stride(otherwise: usize) -> usize {
    let given = std::env::var("KEEPSAKE_SOAK").ok();
    given.map_or(otherwise, |n| n.parse().expect("KEEPSAKE_SOAK is the distance between blows: 1 for all"))
}

/// Whether somebody asked for how far apart they are.
pub fn is_soaked() -> bool {
    std::env::var_os("KEEPSAKE_SOAK").is_some()
}

/// With which of the blows that far apart to begin: `KEEPSAKE_SOAK_FIRST`, so that several processes share all of them; else with the first.
pub fn first() -> usize {
    let given = std::env::var("KEEPSAKE_SOAK_FIRST").ok();
    given.map_or(0, |n| n.parse().expect("KEEPSAKE_SOAK_FIRST is a number below KEEPSAKE_SOAK"))
}

/// An installation that is struck again and again.
#[derive(Debug)]
pub struct Arena {
    /// The installation, the first of its house.
    pub house: House,
    operation: Operation,
    /// The set that is restored, and what it holds.
    set: String,
    whole: State,
    /// What the stores held when the run began that is struck.
    before: Option<State>,
    /// Events of a run that nobody disturbs.
    events: usize,
    /// Sets that were found good already.
    known: std::collections::BTreeSet<String>,
    /// Restores so far.
    restores: usize,
    /// Objects that writers who were killed had begun.
    torn: std::collections::BTreeSet<String>,
    /// Damages the repository behind a blow: the checks must find it.
    sabotage: Option<fn(&House)>,
}

/// What was done.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Tally {
    /// Runs that were to be struck.
    pub runs: usize,
    /// Blows that found their victim: all, but of tools the last, when none ran until the end.
    pub struck: usize,
}

impl Arena {
    /// Starts an installation, backs it up, and learns how many events the operation has.
    pub async fn open(operation: Operation) -> Self {
        let house = House::new(&["prod"], Size::TINY).await;
        let made = house.must_json(&["backup"]);
        let set = made[0]["set"].as_str().expect("a set").to_owned();
        let whole = State::of(&house.installations[0]).await;
        let mut arena = Self {
            house,
            operation,
            set,
            whole,
            before: None,
            events: 0,
            known: [].into(),
            restores: 0,
            torn: [].into(),
            sabotage: None,
        };
        let mut run = arena.begin().await;
        let mut events = Vec::new();
        while let Some(event) = run.next_event() {
            events.push(event);
        }
        assert!(run.end().success(), "undisturbed it failed: {:?}", run.said());
        assert!(events.len() >= 10, "only {} events were seen: {events:?}", events.len());
        arena.events = events.len();
        arena.must_be_sound(None).await;
        arena
    }

    /// From now on this is done to the repository after each blow.
    pub fn sabotage(&mut self, deed: fn(&House)) {
        self.sabotage = Some(deed);
    }

    /// How many events the operation has.
    pub fn events(&self) -> usize {
        self.events
    }

    async fn begin(&mut self) -> Watched {
        if self.operation == Operation::Restore {
            self.house.installations[0].wreck().await;
            self.before = Some(State::of(&self.house.installations[0]).await);
        }
        Watched::start(&self.house, &self.command())
    }

    /// The operation, as it is typed.
    fn command(&self) -> Vec<String> {
        let identity = self.house.path("identity-1");
        let words = match self.operation {
            Operation::Backup => vec!["backup"],
            // A safety set is a backup, and backups are struck at all their events themselves.
            Operation::Restore => {
                vec!["restore", "--no-safety", "--yes", "prod", "--set", &self.set, "--identity", &identity]
            }
        };
        words.into_iter().map(str::to_owned).collect()
    }

    /// One blow after the event of this number, counted from 0, and everything that must hold afterwards. Gives the number of the event that it fell
    /// after; nothing if there was nobody to strike until the end.
    pub async fn strike(&mut self, event: usize, victim: Victim, blow: Blow) -> Option<usize> {
        let what = format!("{blow:?} of {victim:?} at event {event} of a {:?}", self.operation);
        let began = Instant::now();
        let run = self.begin().await;
        let again = self.command();
        let fate = strike::strike(&mut self.house, &again, run, event, (victim, blow), &what);
        if let Some(deed) = self.sabotage {
            deed(&self.house);
        }
        self.must_be_sound(Some((&fate, &what))).await;
        println!("{what} ({}): {} in {:.1} s", fate.place, fate.told(), began.elapsed().as_secs_f64());
        fate.struck.then_some(fate.event)
    }

    /// Every `stride`-th of all blows at all events, beginning with the one of number `first`.
    pub async fn strike_all(&mut self, blows: &[(Victim, Blow)], first: usize, stride: usize) -> Tally {
        let all = (0..self.events).flat_map(|event| blows.iter().map(move |(victim, blow)| (event, *victim, *blow)));
        let chosen: Vec<_> = all.skip(first).step_by(stride).collect();
        let mut tally = Tally::default();
        // From where on no run has shown yet whether this blow finds a victim.
        let mut shown = std::collections::HashMap::new();
        for (event, victim, blow) in chosen {
            let open = shown.entry((victim, blow)).or_insert(0);
            if event < *open {
                continue;
            }
            let struck = self.strike(event, victim, blow).await;
            *open = struck.map_or(self.events, |at| at + 1);
            tally.runs += 1;
            tally.struck += usize::from(struck.is_some());
        }
        tally
    }
}

/// A deed for [`Arena::sabotage`]: the newest segment of the repository is gone, whatever record speaks of it.
pub fn lose_a_segment(house: &House) {
    let stored = crate::house::files_below(&house.repository());
    let written = |path: &std::path::PathBuf| std::fs::metadata(path).and_then(|m| m.modified()).expect("a segment");
    let newest = stored.into_iter().filter(|p| p.display().to_string().contains("/segments/")).max_by_key(written);
    std::fs::remove_file(newest.expect("a segment")).expect("lose a segment");
}
