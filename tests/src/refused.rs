//! Sets that must not be restored: damaged, forged, foreign, of another key, format or release. Each is put before a real `keepsake restore` of a real
//! installation, which must refuse it by name. No store is changed, and what can be known without reading the set does not even stop the applications.

mod table;

use std::path::{Path, PathBuf};

use keepsake_core::repository::sign::SigningKey;
use serde_json::Value;

pub use self::table::Refusal;
use crate::child::{run, tool_command};
use crate::house::{COMPONENTS, Hooks, House, State};
use crate::threescale::{Numbers, Size};

/// The length of a file that cannot be compressed, bytes: the archive that has it is of several segments.
const LARGE: usize = 14 << 20;

/// An installation over whose wrecked stores nothing wrong may be restored.
#[derive(Debug)]
pub struct Ground {
    house: House,
    hooks: Hooks,
    /// What the stores held when the sets were made, and what they hold now.
    whole: State,
    wrecked: State,
    /// The sets, oldest first, both of the same stores.
    sets: [String; 2],
    /// A key that nobody here trusts.
    stranger: SigningKey,
    /// The repository as it must be put back.
    good: PathBuf,
}

impl Ground {
    /// Starts an installation, backs it up twice, and wrecks it.
    pub async fn open() -> Self {
        let mut house = House::new(&["prod"], Size::TINY).await;
        let hooks = Hooks::of(&mut house);
        let large = house.installations[0].storage.join("large");
        std::fs::write(large, Numbers::new(1).bytes(LARGE)).expect("write a large file");
        let sets = [(); 2].map(|()| house.must_json(&["backup"])[0]["set"].as_str().expect("a set").to_owned());
        let whole = State::of(&house.installations[0]).await;
        house.installations[0].wreck().await;
        let wrecked = State::of(&house.installations[0]).await;
        house.must(&["keys", "generate", "--identity", &house.path("identity-of-a-stranger")]);
        let (stranger, _) = SigningKey::generate().expect("a key");
        let good = house.scratch.folder("good", 0o700);
        copy_parts(&house.repository(), &good);
        Self { house, hooks, whole, wrecked, sets, stranger, good }
    }

    /// Everything that must be refused; of what is wrong with segments `each` component's, or those of two of them.
    pub fn refusals(&self, each: bool) -> Vec<Refusal> {
        let some: &[&str] = if each { &COMPONENTS } else { &["backend-redis", "zync-database"] };
        some.iter().flat_map(|c| table::segments(self, c)).chain(table::others(self)).collect()
    }

    /// A set that is changed as the forged ones are, by somebody who is trusted: nothing speaks against it, and it is restored.
    pub fn changed_by_a_signer(&self) -> Refusal {
        table::edited(self, "edited and signed by a signer", |record| record["keepsake_version"] = "0.0.1".into())
    }

    /// Brings the repository, or what is live, into this state, asks for a restore, and puts the repository back.
    ///
    /// # Panics
    /// When it is not refused, not by name, or anything is changed.
    pub async fn must_refuse(&self, refusal: &Refusal) {
        let prod = &self.house.installations[0];
        let name = &refusal.name;
        let mut before = self.wrecked.clone();
        if let Some((changed, _)) = refusal.live {
            prod.mysql.run(&["USE `system`", changed]).await;
            before = State::of(prod).await;
        }
        (refusal.damage)(self);
        let verified = self.house.keepsake(&["verify"]);
        assert!(!refusal.reads || verified.status.code() == Some(5), "{name}: `verify` finds nothing: {verified:?}");
        let identity = self.house.path("identity-1");
        let mut arguments = vec!["restore", "--yes", "prod"];
        arguments.extend(refusal.arguments.iter().map(String::as_str));
        if !refusal.arguments.iter().any(|a| a == "--identity") {
            arguments.extend(["--identity", &identity]);
        }
        let done = self.house.keepsake(&arguments);
        let told = String::from_utf8_lossy(&done.stderr).into_owned();
        assert!(!done.status.success(), "{name}: it was not refused: {told}");
        assert_eq!(done.status.code(), Some(1), "{name}: {told}");
        for words in &refusal.words {
            assert!(told.contains(words), "{name}: it does not say {words:?}: {told}");
        }
        let called: &[&str] = if refusal.reads { &["quiesce", "resume"] } else { &[] };
        assert_eq!(self.hooks.words(), called, "{name}: the applications were stopped and started again");
        State::of(prod).await.assert_is(&before, &format!("{name}: a store was changed"));
        assert_eq!(self.house.leftovers(prod).await, Vec::<String>::new(), "{name}: something is left");
        self.put_back();
        if let Some((_, undone)) = refusal.live {
            prod.mysql.run(&["USE `system`", undone]).await;
        }
    }

    /// With nothing wrong the same command restores.
    pub async fn must_restore(&self) {
        self.house.must(&["restore", "--yes", "prod", "--identity", &self.house.path("identity-1")]);
        State::of(&self.house.installations[0]).await.assert_is(&self.whole, "with nothing wrong");
        assert_eq!(self.hooks.words(), ["quiesce", "resume"]);
    }

    /// All but the journals: numbers of runs must go on rising.
    fn put_back(&self) {
        copy_parts(&self.good, &self.house.repository());
    }

    fn object(&self, key: &str) -> PathBuf {
        self.house.repository().join(key)
    }

    fn newest(&self) -> PathBuf {
        self.object(&format!("sets/prod/{}", self.sets[1]))
    }

    /// The keys of a component's segments in a set, by artifact.
    fn segments(&self, set: &str, component: &str) -> Vec<(String, Vec<String>)> {
        let record = self.house.must_json(&["show", set]);
        let components = record["components"].as_array().expect("components");
        let found = components.iter().find(|c| c["component"] == component).expect("the component");
        let text = |v: &Value| v.as_str().expect("a text").to_owned();
        let keys = |a: &Value| a["segments"].as_array().expect("segments").iter().map(|s| text(&s["key"])).collect();
        let artifacts = found["dump"]["artifacts"].as_array().expect("artifacts");
        artifacts.iter().map(|a| (text(&a["artifact"]), keys(a))).collect()
    }
}

/// Replaces what is not a journal.
fn copy_parts(from: &Path, to: &Path) {
    for name in ["sets", "keys", "keepsake.json"] {
        let (from, to) = (from.join(name), to.join(name));
        if to.is_dir() {
            std::fs::remove_dir_all(&to).expect("take a folder away");
        } else if to.is_file() {
            std::fs::remove_file(&to).expect("take a file away");
        }
        if from.try_exists().expect("look for an object") {
            let copied = run(tool_command("cp").arg("-a").arg(&from).arg(&to));
            assert!(copied.status.success(), "{copied:?}");
        }
    }
}
