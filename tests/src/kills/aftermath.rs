//! What must be true after a blow, whatever it struck.

use std::time::Duration;

use serde_json::Value;

use super::strike::{Fate, all_tools, end_for_it, still_running};
use super::{Arena, Blow, Operation, Victim};
use crate::house::{State, files_below};
use crate::poll::wait_for;

impl Arena {
    /// No record without its data, nothing left, and the next run works. `fate` is `None` when nothing was struck.
    pub(super) async fn must_be_sound(&mut self, fate: Option<(&Fate, &str)>) {
        let what = fate.map_or("undisturbed", |(_, what)| what);
        let struck = fate.is_some_and(|(fate, _)| fate.struck);
        let success = fate.is_none_or(|(fate, _)| fate.status.success());
        if let Some((fate, what)) = fate
            && fate.struck
        {
            is_told(fate, what);
            // A coordinator that ended by itself has journalled how, or is told to have.
            // One that halted, or could not put everything back, waits for somebody to mend what was struck, which is done by now.
            if matches!(fate.status.code(), None | Some(3 | 4)) {
                end_for_it(&self.house, what);
            }
        }
        match self.operation {
            Operation::Backup => {
                self.sets_are_whole(what);
                if struck {
                    self.house.must(&["backup"]);
                    self.sets_are_whole(what);
                }
            }
            Operation::Restore => {
                // What calls itself a success is one. One that was taken over was made again already, and must not have come in between.
                let taken_over = fate.is_some_and(|(f, _)| f.blow == (Victim::Coordinator, Blow::StopForAWhile));
                // Status 1 says that nothing was changed, or that everything was put back.
                if let (Some((fate, _)), Some(before), false) = (fate, &self.before, taken_over)
                    && fate.status.code() == Some(1)
                {
                    let what = format!("{what}: it says that nothing was changed");
                    State::of(&self.house.installations[0]).await.assert_is(before, &what);
                }
                if !success && !taken_over {
                    self.house.must(&self.command());
                }
                State::of(&self.house.installations[0]).await.assert_is(&self.whole, what);
                // Now and then, because the next restore shows as much of agents and coordinator.
                self.restores += 1;
                if struck && self.restores.is_multiple_of(5) {
                    self.house.must(&["backup"]);
                    self.sets_are_whole(what);
                }
            }
        }
        self.nothing_is_left(fate.map(|(fate, _)| fate), what).await;
    }

    /// Every set that exists is readable to its end, and is one whose run had it recorded.
    fn sets_are_whole(&mut self, what: &str) {
        let sets = self.house.must_json(&["sets"]);
        let new: Vec<Value> =
            sets.as_array().expect("sets").iter().filter(|s| !self.known.contains(id(s))).cloned().collect();
        for set in new {
            if !self.is_recorded(&set, what) {
                continue;
            }
            self.house.must(&["verify", id(&set)]);
            self.house.must(&["inspect", id(&set), "--identity", &self.house.path("identity-2")]);
            let components = self.house.must_json(&["show", id(&set)])["components"].clone();
            let components = components.as_array().expect("components");
            let whole = components.len() == 5 && components.iter().all(|c| c["dump"].is_object());
            assert_eq!(set["status"] == "complete", whole, "{what}: {set:#} {components:#?}");
            self.known.insert(id(&set).to_owned());
        }
    }

    /// A set that is listed has its record only if its run had prepared it.
    fn is_recorded(&self, set: &Value, what: &str) -> bool {
        let recorded = matches!(set["status"].as_str(), Some("complete" | "partial"));
        let Some(epoch) = set["epoch"].as_u64() else {
            assert!(!recorded, "{what}: {set:#}");
            return false;
        };
        let run = self.house.must_json(&["runs", &epoch.to_string()]);
        let prepared =
            run["events"].as_array().expect("events").iter().any(|e| e["event"]["type"] == "record-prepared");
        assert!(!recorded || prepared, "{what}: a set that its run had not recorded: {set:#}");
        recorded
    }

    /// No tool runs on, no temporary file lies anywhere.
    async fn nothing_is_left(&mut self, fate: Option<&Fate>, what: &str) {
        let mut tools = fate.map(|f| f.tools.clone()).unwrap_or_default();
        wait_for("tools and files to go", Duration::from_secs(20), async || {
            tools.extend(all_tools(&self.house));
            let running = still_running(&tools);
            let mut files = self.house.leftovers(&self.house.installations[0]).await;
            // What a writer that was killed had begun is never listed, and goes with its set's folder when that is pruned.
            if fate.is_some_and(|f| f.blow.1 == Blow::StopForAWhile) {
                files.extend(self.begun_objects().difference(&self.torn).cloned());
            }
            if running.is_empty() && files.is_empty() { Ok(()) } else { Err(format!("{what}: {running:?} {files:?}")) }
        })
        .await;
        self.torn = self.begun_objects();
    }

    /// Objects whose writing was begun: the store's name for them has a `#`.
    fn begun_objects(&self) -> std::collections::BTreeSet<String> {
        let names = files_below(&self.house.repository()).into_iter().map(|p| p.display().to_string());
        names.filter(|name| name.contains('#')).collect()
    }
}

/// The coordinator's own word: a status that fits, and never silence about a failure.
fn is_told(fate: &Fate, what: &str) {
    use std::os::unix::process::ExitStatusExt;
    let (victim, _) = fate.blow;
    match (fate.status.code(), fate.status.signal()) {
        (None, Some(9)) => assert_eq!(victim, Victim::Coordinator, "{what}: the coordinator was killed"),
        (Some(0), _) => {}
        (Some(1 | 3 | 4 | 130), _) => {
            let words = ["FAILED", "cancelled", "taken over by another coordinator", "keepsake: "];
            let why = fate.said.iter().any(|line| words.iter().any(|word| line.contains(word)));
            assert!(why, "{what}: it does not say why: {:#?}", fate.said);
        }
        _ => panic!("{what}: ended with {}: {:#?}", fate.status, fate.said),
    }
}

fn id(set: &Value) -> &str {
    set["set"].as_str().expect("a set's id")
}
