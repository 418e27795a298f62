//! What becomes of the data that was there before a restore, on the command line and on real servers: kept as a safety set, dropped, put back; also by a
//! coordinator that is killed at any of its events, and another one that goes on.

use rustix::process::Signal;

use crate::house::{Hooks, House, State};
use crate::kills::Watched;
use crate::threescale::Size;

/// An installation with a set of other data than it holds.
#[derive(Debug)]
pub struct Ground {
    house: House,
    hooks: Hooks,
    /// What the set holds.
    new: State,
    /// What is live before any restore.
    old: State,
    set: String,
}

/// What is done with old data that a restore has kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deed {
    /// `keepsake finalize`
    Finalize,
    /// `keepsake rollback --discard-writes`
    Rollback,
}

impl Deed {
    fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Finalize => &["finalize"],
            Self::Rollback => &["rollback", "--discard-writes"],
        }
    }
}

impl Ground {
    /// Starts an installation, backs it up, and wrecks it.
    pub async fn open() -> Self {
        Self::with("true").await
    }

    /// As [`Ground::open`], with applications that write to their volume the moment that they are started, whether anybody looks or not.
    pub async fn with_hasty_applications() -> Self {
        Self::with("echo written > $(dirname $0)/hasty").await
    }

    async fn with(on_resume: &str) -> Self {
        let mut house = House::new(&["prod"], Size::TINY).await;
        let volume = house.installations[0].storage.display().to_string();
        let hooks = Hooks::that_also(&mut house, &on_resume.replace("$(dirname $0)", &volume));
        let set = house.must_json(&["backup"])[0]["set"].as_str().expect("a set").to_owned();
        let new = State::of(&house.installations[0]).await;
        house.installations[0].wreck().await;
        let old = State::of(&house.installations[0]).await;
        Self { house, hooks, new, old, set }
    }

    async fn is(&self, expected: &State, what: &str) {
        self.now().await.assert_is(expected, what);
    }

    /// What is live; whether anything is kept beside it is asked for apart.
    async fn now(&self) -> State {
        State::of(&self.house.installations[0]).await.without_what_is_kept()
    }

    async fn left(&self) -> Vec<String> {
        self.house.leftovers(&self.house.installations[0]).await
    }

    async fn nothing_is_left(&self, what: &str) {
        assert_eq!(self.left().await, Vec::<String>::new(), "{what}: something is left");
    }

    fn restore(&self, set: &str, more: &[&str]) -> serde_json::Value {
        let identity = self.house.path("identity-2");
        self.house.must_json(&[&["restore", "--yes", "prod", "--set", set, "--identity", &identity], more].concat())
    }

    /// What every application does that was not stopped.
    async fn write(&self) {
        let prod = &self.house.installations[0];
        let insert =
            "INSERT INTO `system`.plans (issuer_id, name, type, issuer_type, state) VALUES (1, 'later', 'x', 'x', 'x')";
        prod.mysql.run(&[insert]).await;
        for redis in [&prod.backend, &prod.system_redis] {
            redis.ask::<()>(&["SET", "later", "1"]).await;
        }
        prod.zync.run_as("zync", "zync_production", &["CREATE TABLE later (id int)".to_owned()]).await;
        std::fs::write(prod.storage.join("later"), "later").expect("write a file");
    }

    fn refused(&self, arguments: &[&str], status: i32, words: &[&str]) {
        let done = self.house.keepsake(arguments);
        let told = String::from_utf8_lossy(&done.stderr).into_owned();
        assert_eq!(done.status.code(), Some(status), "{arguments:?}: {told}");
        for word in words {
            assert!(told.contains(word), "{arguments:?} does not say {word:?}: {told}");
        }
    }

    /// A restore that ends at once: what was there before is in the safety set, and nowhere else.
    ///
    /// # Panics
    /// When it is not.
    pub async fn comes_back_from_its_safety_set(&self) {
        let done = self.restore(&self.set, &[]);
        self.is(&self.new, "after a restore").await;
        self.nothing_is_left("after a restore").await;
        assert_eq!(self.hooks.words(), ["quiesce", "resume"]);
        let safety = done["safety"].as_str().expect("a safety set");
        self.house.must(&["verify", safety]);
        self.refused(&["rollback", "--discard-writes"], 1, &["no component of prod keeps old data"]);
        // A wrecked database is no System that a Config could be computed from.
        self.restore(safety, &["--no-safety", "--resync", "rake"]);
        self.is(&self.old, "after the restore of the safety set").await;
        self.nothing_is_left("after the restore of the safety set").await;
        assert_eq!(self.hooks.words(), ["quiesce", "resume"]);
    }

    /// A restore that keeps the old data, beside which applications go on and backups are made.
    async fn kept(&self) {
        self.restore(&self.set, &["--keep-old", "--no-safety"]);
        self.is(&self.new, "after a restore that keeps the old data").await;
        let left = self.left().await.join(" ");
        // Of every store: a schema, a database, a folder of the volume and of each Redis.
        assert!(left.matches("_keepsake").count() >= 2 && left.matches(".keepsake-").count() >= 3, "kept: {left}");
        assert_eq!(self.hooks.words(), ["quiesce", "resume"]);
    }

    /// Dropped: what is live stays as it is, with what was written since.
    ///
    /// # Panics
    /// When anything is otherwise.
    pub async fn is_dropped(&self) {
        self.kept().await;
        self.write().await;
        let live = self.now().await;
        let identity = self.house.path("identity-1");
        let again = ["restore", "--yes", "prod", "--set", &self.set, "--identity", &identity];
        self.refused(&again, 1, &["keepsake finalize", "keepsake rollback", "system-mysql", "system-storage"]);
        self.house.must(&["backup"]);
        let plan = self.house.must(&["finalize", "--dry-run"]);
        assert!(plan.contains("drop the old data"), "{plan}");
        self.is(&live, "after what did nothing").await;
        self.house.must(Deed::Finalize.arguments());
        self.is(&live, "after finalize").await;
        self.nothing_is_left("after finalize").await;
        assert_eq!(self.hooks.words(), Vec::<String>::new(), "nobody is stopped for that");
        self.refused(Deed::Rollback.arguments(), 1, &["no component of prod keeps old data"]);
    }

    /// Put back: every store is what it was before the restore, and what was written since is lost, because that was asked for.
    ///
    /// # Panics
    /// When anything is otherwise.
    pub async fn is_put_back(&self) {
        self.kept().await;
        self.write().await;
        let live = self.now().await;
        self.refused(&["rollback"], 2, &["--discard-writes"]);
        self.is(&live, "after what was refused").await;
        assert_eq!(self.hooks.words(), Vec::<String>::new());
        self.house.must(Deed::Rollback.arguments());
        self.is(&self.old, "after a rollback").await;
        self.nothing_is_left("after a rollback").await;
        assert_eq!(self.hooks.words(), ["quiesce", "resume"]);
        self.refused(Deed::Finalize.arguments(), 1, &["no component of prod keeps old data"]);
    }

    /// The coordinator is killed at every `stride`-th of its events, from the `first` on, and another one goes on. Gives how often it was killed.
    ///
    /// # Panics
    /// When it does not end as if nobody had been killed.
    pub async fn is_struck(&self, deed: Deed, first: usize, stride: usize) -> usize {
        let arguments: Vec<String> = deed.arguments().iter().map(|a| (*a).to_owned()).collect();
        let (mut at, mut struck) = (first, 0);
        loop {
            self.kept().await;
            let mut run = Watched::start(&self.house, &arguments);
            let mut place = None;
            for _ in 0..=at {
                place = run.next_event();
            }
            let Some(place) = place else {
                let said = run.said().to_vec();
                assert!(run.end().success(), "{deed:?}, undisturbed: {said:#?}");
                self.ended(deed, "undisturbed").await;
                return struck;
            };
            run.signal(Signal::KILL);
            run.end();
            struck += 1;
            let what = format!("{deed:?}, killed at event {at} ({place})");
            let resumed = self.house.keepsake(&["resume", "--coordinator-is-gone"]);
            let told = String::from_utf8_lossy(&resumed.stderr).into_owned();
            // It may have been killed after its last word was durable.
            let over = told.contains("nothing to go on with");
            assert!(resumed.status.success() || over, "{what}: resume ended with {}: {told}", resumed.status);
            self.ended(deed, &what).await;
            println!("{what}");
            at += stride;
        }
    }

    async fn ended(&self, deed: Deed, what: &str) {
        let (expected, called): (_, &[&str]) = match deed {
            Deed::Finalize => (&self.new, &[]),
            Deed::Rollback => (&self.old, &["quiesce", "resume"]),
        };
        self.is(expected, what).await;
        self.nothing_is_left(what).await;
        // Whoever goes on runs a hook again of which it is not known whether it ran.
        let mut words = self.hooks.words();
        words.dedup();
        assert_eq!(words, called, "{what}");
    }
}
