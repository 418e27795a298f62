//! The applications of the fake world: stopped and started, and made to follow the data.

use std::collections::BTreeSet;

use async_trait::async_trait;
use keepsake_coordinator::plan::WORKER;
use keepsake_coordinator::platform::{Extent, Looked, Platform, Stopped};
use keepsake_coordinator::topology::kubernetes::ResyncTask;
use keepsake_core::error::{Error, Kind, Result};
use keepsake_core::id::{Component, RunKey};

use super::rebuild::are_objects;
use super::{FakeWorld, NEW, OLD};

/// What the applications had before they were stopped.
fn had() -> Stopped {
    let (namespace, workload) = ("threescale".to_owned(), "deployment/system-app".to_owned());
    Stopped { namespace, workload, replicas: 3, ready: 3, uid: None }
}

impl FakeWorld {
    /// What was done behind the point of no return, in words.
    pub fn followed(&self) -> Vec<String> {
        let state = self.lock();
        let mut told: Vec<_> = state.made_anew.keys().map(|task| task.as_str().to_owned()).collect();
        told.extend(state.rolled_out.map(|_| "rolled out".to_owned()));
        told.extend(state.looked.map(|_| "looked at".to_owned()));
        told
    }

    /// Nothing that follows on the data may happen while it may still go back, or while nobody runs.
    fn must_follow(&self, what: &str, takes_applications: bool) {
        let mut state = self.lock();
        let wanted = if state.puts_back { OLD } else { NEW };
        // What is built stays, when the data goes back.
        let stays = |name: &Component| state.puts_back && state.site.is_some() && are_objects(name);
        let old = state.stores.iter().filter(|(name, s)| s.base() != wanted && !stays(name));
        let old: Vec<_> = old.map(|(name, _)| name.to_string()).collect();
        if !old.is_empty() && !state.alone {
            state.violations.push(format!("{what} while the data of {} is that of before", old.join(", ")));
        }
        if takes_applications && !state.running {
            state.violations.push(format!("{what} while no application runs"));
        }
    }
}

#[async_trait]
impl Platform for FakeWorld {
    async fn quiesce_but(&self, _: &RunKey, keeps: &[String]) -> Result<Vec<Stopped>> {
        let worker_stays = keeps.iter().any(|k| k == WORKER);
        let step = if worker_stays { "quiesce-but-worker" } else { "quiesce" };
        self.enter(step, step)?;
        {
            let mut state = self.lock();
            state.running = false;
            state.worker = worker_stays;
        }
        self.leave(step).map(|()| vec![had()])
    }

    async fn close_routes(&self, _: &RunKey) -> Result<usize> {
        self.enter("close-routes", "close-routes")?;
        self.lock().routes = Some(true);
        self.leave("close-routes").map(|()| 3)
    }

    async fn open_routes(&self, _: &RunKey) -> Result<()> {
        self.enter("open-routes", "open-routes")?;
        {
            let mut state = self.lock();
            let bases: BTreeSet<_> = state.stores.values().map(|s| s.base().to_owned()).collect();
            if bases.len() > 1 && !state.alone {
                state.violations.push("callers are let in to stores that do not belong together".to_owned());
            }
            state.routes = Some(false);
        }
        self.leave("open-routes")
    }

    async fn resume(&self, _: &RunKey) -> Result<()> {
        self.enter("resume", "resume")?;
        {
            let mut state = self.lock();
            state.worker = true;
            if !state.running {
                state.running = true;
                state.since_start.clear();
            }
            let stores = state.stores.iter().filter(|(name, _)| !are_objects(name) || state.site.is_none());
            let bases: BTreeSet<_> = stores.map(|(_, s)| s.base().to_owned()).collect();
            let wrong = state.config_of_another();
            state.violations.extend(wrong.map(|wrong| format!("the applications were started: {wrong}")));
            if bases.len() > 1 && !state.alone {
                state.violations.push("the applications were started on stores that do not belong together".to_owned());
            }
        }
        self.leave("resume")
    }

    async fn is_still_quiet(&self, _: &RunKey, _: &Extent) -> Result<()> {
        if self.is_running() || self.is_unbuilt() {
            return Err(Error::new(Kind::Conflict, "nothing was stopped, or something runs again"));
        }
        Ok(())
    }

    async fn until_built(&self, _: &RunKey) -> Result<()> {
        self.build()
    }

    async fn roll_out(&self, run: &RunKey, _: &[String]) -> Result<()> {
        self.enter("roll-out", "roll-out")?;
        self.must_follow("a rollout", false);
        {
            let mut state = self.lock();
            if state.marks.insert(run.run) {
                state.rolled_out = Some(run.run);
            }
            // Whoever has stopped them starts them now.
            if state.by_hand && !state.running {
                state.running = true;
                state.since_start.clear();
            }
        }
        self.leave("roll-out")
    }

    async fn resync(&self, run: &RunKey, task: ResyncTask) -> Result<String> {
        let step = format!("resync-{}", task.as_str());
        self.enter(&step, &step)?;
        self.must_follow(&step, true);
        {
            let mut state = self.lock();
            if state.ever.insert((task, run.run)) || state.made_anew.contains_key(&task) {
                state.made_anew.insert(task, run.run);
            } else {
                state.violations.push(format!("{step} is taken for done, by the data that is gone"));
            }
        }
        self.leave(&step).map(|()| "it is done".to_owned())
    }

    async fn check(&self, run: &RunKey, had_before: &[Stopped]) -> Result<Vec<Looked>> {
        self.enter("check-applications", "check-applications")?;
        self.must_follow("a last look", true);
        let mut state = self.lock();
        let expected = if state.by_hand { Vec::new() } else { vec![had()] };
        if had_before != expected {
            state.violations.push(format!("what the applications had is forgotten: {had_before:?}"));
        }
        state.looked = Some(run.run);
        drop(state);
        let look = Looked { check: "workloads".to_owned(), found: "as they were".to_owned(), warning: false };
        self.leave("check-applications").map(|()| vec![look])
    }
}
