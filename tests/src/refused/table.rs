//! What is wrong with a set, and in which words it must be refused.

use std::path::Path;

use data_encoding::BASE64;
use keepsake_core::repository::sign::SigningKey;
use serde_json::{Value, json};

use super::Ground;

/// Something that must be refused.
pub struct Refusal {
    /// What is wrong.
    pub name: String,
    /// Brings it about in the repository.
    pub(super) damage: Box<dyn Fn(&Ground)>,
    /// Brings it about in the live system database, and undoes it.
    pub(super) live: Option<(&'static str, &'static str)>,
    /// What `restore` is told besides.
    pub(super) arguments: Vec<String>,
    /// What it must say.
    pub(super) words: Vec<String>,
    /// Only who reads the set finds it: the applications are stopped by then, and must be started again.
    pub(super) reads: bool,
}

impl std::fmt::Debug for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Refusal").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Refusal {
    fn new(name: impl Into<String>, words: &[&str], damage: impl Fn(&Ground) + 'static) -> Self {
        let words = words.iter().map(|w| (*w).to_owned()).collect();
        Self { name: name.into(), damage: Box::new(damage), live: None, arguments: Vec::new(), words, reads: false }
    }

    fn told(mut self, arguments: &[&str]) -> Self {
        self.arguments = arguments.iter().map(|a| (*a).to_owned()).collect();
        self
    }

    /// Found only by reading.
    fn when_read(mut self) -> Self {
        self.reads = true;
        self
    }
}

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|e| panic!("read {}: {e}", path.display()))
}

fn write(path: &Path, bytes: impl AsRef<[u8]>) {
    std::fs::write(path, bytes).unwrap_or_else(|e| panic!("write {}: {e}", path.display()));
}

/// What can be wrong with a component's segments.
pub(super) fn segments(ground: &Ground, component: &str) -> Vec<Refusal> {
    let mut all = Vec::new();
    for (artifact, keys) in ground.segments(&ground.sets[1], component) {
        let last = keys.len() - 1;
        let whose = format!("{component}/{artifact} segment {last}");
        let named = [component, &artifact, &format!("segment {last}")];
        let key = keys[last].clone();
        let at = key.clone();
        all.push(
            Refusal::new(format!("{whose} damaged"), &named, move |ground| {
                let mut bytes = read(&ground.object(&at));
                let middle = bytes.len() / 2;
                bytes[middle] ^= 1;
                write(&ground.object(&at), bytes);
            })
            .when_read(),
        );
        let at = key.clone();
        all.push(Refusal::new(format!("{whose} missing"), &[&whose, "is missing"], move |ground| {
            std::fs::remove_file(ground.object(&at)).expect("take a segment away");
        }));
        all.push(Refusal::new(format!("{whose} truncated"), &[&whose, "bytes instead of"], move |ground| {
            let bytes = read(&ground.object(&key));
            write(&ground.object(&key), &bytes[..bytes.len() - 1]);
        }));
    }
    all
}

/// Everything else.
pub(super) fn others(ground: &Ground) -> Vec<Refusal> {
    let mut all = misplaced(ground);
    all.extend(records(ground));
    all.extend(keys(ground));
    let release = Refusal::new("another release of 3scale", &["another release", "--other-release"], |_| {});
    let live = Some((
        "INSERT INTO schema_migrations VALUES ('20991231235959')",
        "DELETE FROM schema_migrations WHERE version = '20991231235959'",
    ));
    all.push(Refusal { live, ..release });
    all
}

/// Good segments in the wrong place. What age stores is now a few bytes longer and now shorter, so mostly the length alone tells; where it does not, the
/// digest has to.
fn misplaced(ground: &Ground) -> Vec<Refusal> {
    let files = |set: &str| ground.segments(set, "system-storage").remove(0).1;
    let (ours, theirs) = (files(&ground.sets[1]), files(&ground.sets[0]));
    assert!(ours.len() >= 4 && ours.len() == theirs.len(), "{ours:?}");
    let length = |key: &str| read(&ground.object(key)).len();
    let same = |a: &str, b: &str| length(a) == length(b);
    let [here, there] = [ours[1].clone(), theirs[1].clone()];
    let of_length = length(&here);
    let cut_to_fit = move |ground: &Ground| {
        let mut bytes = read(&ground.object(&there));
        bytes.resize(of_length, 0);
        write(&ground.object(&here), bytes);
    };
    let [one, two] = [ours[1].clone(), ours[2].clone()];
    let swapped = move |ground: &Ground| {
        let (a, b) = (read(&ground.object(&one)), read(&ground.object(&two)));
        write(&ground.object(&one), b);
        write(&ground.object(&two), a);
    };
    let instead = |here: &str, there: &str| {
        let [here, there] = [here.to_owned(), there.to_owned()];
        move |ground: &Ground| write(&ground.object(&here), read(&ground.object(&there)))
    };
    let [zync, redis] =
        ["zync-database", "backend-redis"].map(|c| ground.segments(&ground.sets[1], c).remove(0).1.remove(0));
    let named = ["system-storage", "segment 1"];
    let foreign = Refusal::new("a segment of another set", &named, instead(&ours[1], &theirs[1]));
    let swapped = Refusal::new("two segments of an archive swapped", &named, swapped);
    let other = ["zync-database", "segment 0"];
    vec![
        Refusal::new("a segment of another set, cut to the length", &named, cut_to_fit).when_read(),
        Refusal { reads: same(&ours[1], &theirs[1]), ..foreign },
        Refusal { reads: same(&ours[1], &ours[2]), ..swapped },
        Refusal {
            reads: same(&zync, &redis),
            ..Refusal::new("a segment of another component", &other, instead(&zync, &redis))
        },
    ]
}

/// What is wrong with the record.
fn records(ground: &Ground) -> Vec<Refusal> {
    let (older, newest) = (ground.sets[0].clone(), ground.sets[1].clone());
    let by_name = |refusal: Refusal| refusal.told(&["--set", &newest]);
    let unsigned = ["not of any trusted signer", newest.as_str()];
    let moved = move |ground: &Ground| {
        for name in ["record.json", "record.sig"] {
            let from = ground.object(&format!("sets/prod/{older}/{name}"));
            write(&ground.newest().join(name), read(&from));
        }
    };
    let change = |ground: &Ground| {
        let path = ground.newest().join("record.json");
        let text = String::from_utf8(read(&path)).expect("UTF-8");
        write(&path, text.replace("\"backup\"", "\"safety\""));
    };
    let forged = |ground: &Ground| resign(ground, &ground.stranger, |record| record["left_out"] = json!([]));
    let newer = edited(ground, "a record of a newer format", |record| {
        record["format"] = 99.into();
        record["reads_from"] = 99.into();
    });
    let gone = |name: &'static str| {
        move |ground: &Ground| {
            std::fs::remove_file(ground.newest().join(name)).expect("take an object away");
        }
    };
    vec![
        Refusal::new("an edited record", &unsigned, change),
        by_name(Refusal::new("an edited record, asked for by its id", &unsigned, change)),
        Refusal::new("a record forged by a stranger", &unsigned, forged),
        by_name(Refusal::new("a record forged by a stranger, asked for by its id", &unsigned, forged)),
        Refusal::new("the record of another set", &["somebody moved it", &newest], moved),
        Refusal::new("a record without its signature", &["record.sig is missing", &newest], gone("record.sig")),
        by_name(Refusal::new("a set without its record", &["it is no backup", &newest], gone("record.json"))),
        Refusal { words: vec!["use a newer Keepsake".to_owned(), newest.clone()], ..newer },
    ]
}

/// What is wrong with keys and `keepsake.json`.
fn keys(ground: &Ground) -> Vec<Refusal> {
    let stranger = serde_json::to_value(ground.stranger.public()).expect("JSON");
    let print = ground.stranger.public().fingerprint();
    let config = |change: Box<dyn Fn(&mut Value)>| {
        move |ground: &Ground| {
            let path = ground.object("keepsake.json");
            let mut config: Value = serde_json::from_slice(&read(&path)).expect("JSON");
            change(&mut config);
            write(&path, config.to_string());
        }
    };
    let signers = json!([stranger]);
    let signer = config(Box::new(move |config| config["signers"] = signers.clone()));
    let other = config(Box::new(|config| config["repository"] = "0190a1b2-0000-7000-8000-000000000000".into()));
    let plain = config(Box::new(|config| config["encryption"] = "none".into()));
    let newer = config(Box::new(|config| {
        config["format"] = 99.into();
        config["reads_from"] = 99.into();
    }));
    let forged = move |ground: &Ground| {
        let config: Value = serde_json::from_slice(&read(&ground.object("keepsake.json"))).expect("JSON");
        let body = json!({
            "format": 1, "repository": config["repository"], "n": 1, "created": config["created"], "add_signers": [stranger.clone()]
        });
        let body = body.to_string();
        let signature = BASE64.encode(&ground.stranger.sign(body.as_bytes()));
        std::fs::create_dir_all(ground.object("keys")).expect("make a folder");
        let signed =
            json!({ "format": 1, "body_base64": BASE64.encode(body.as_bytes()), "signature_base64": signature });
        write(&ground.object("keys/1.json"), signed.to_string());
    };
    let identity = ground.house.path("identity-of-a-stranger");
    let newest = ground.sets[1].as_str();
    vec![
        Refusal::new("keepsake.json with a stranger's signer", &[&print, "which is not trusted"], signer),
        Refusal::new("keepsake.json of another repository", &["another one than is trusted"], other),
        Refusal::new("keepsake.json that asks for no encryption", &["encryption", "trusted is"], plain),
        Refusal::new("keepsake.json of a newer format", &["keepsake.json has format 99"], newer),
        Refusal::new("a change of keys forged by a stranger", &["believe keys/1.json", "trusted signer"], forged),
        Refusal::new("the identity of a stranger", &["open the key of set", newest], |_| {})
            .told(&["--identity", &identity]),
    ]
}

/// The record, changed and signed by who is trusted.
pub(super) fn edited(ground: &Ground, name: &str, change: impl Fn(&mut Value) + Copy + 'static) -> Refusal {
    let own = ground.house.scratch.path().join("signing.pem");
    Refusal::new(name, &[], move |ground| {
        resign(ground, &SigningKey::from_file(&own).expect("the signing key"), change);
    })
}

fn resign(ground: &Ground, key: &SigningKey, change: impl Fn(&mut Value)) {
    let path = ground.newest().join("record.json");
    let mut record: Value = serde_json::from_slice(&read(&path)).expect("JSON");
    change(&mut record);
    let bytes = serde_json::to_vec_pretty(&record).expect("JSON");
    write(&ground.newest().join("record.sig"), key.sign(&bytes));
    write(&path, bytes);
}
