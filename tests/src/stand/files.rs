//! A tree of files.

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use keepsake_agent::engine::Engine;
use keepsake_agent::engine::files::Settings;
use keepsake_agent::engine::registry::Settings as _;
use tokio_util::sync::CancellationToken;

use super::{Contents, SIZE, Stand, names};
use crate::manifest::Manifest;
use crate::scratch::Scratch;
use crate::threescale::storage;

/// A volume.
#[derive(Debug)]
pub struct Files {
    scratch: Scratch,
    root: PathBuf,
}

impl Files {
    /// An empty one.
    pub fn start() -> Self {
        let scratch = Scratch::new();
        let root = scratch.folder("volume", 0o755);
        Self { scratch, root }
    }

    /// The volume's folder.
    pub fn root(&self) -> &std::path::Path {
        &self.root
    }

    fn away(&self) -> PathBuf {
        self.scratch.path().join("away")
    }
}

#[async_trait(?Send)]
impl Stand for Files {
    fn engine(&self) -> Arc<dyn Engine> {
        let settings = Settings { files_root: self.root.clone(), files_preserve_owner: crate::child::is_root() };
        settings.open(self.scratch.path().to_owned()).expect("an engine")
    }

    fn artifact(&self) -> &'static str {
        "files.tar"
    }

    fn tools(&self) -> &'static [&'static str] {
        &[]
    }

    fn keeps_old_data(&self) -> bool {
        true
    }

    async fn fill(&self) {
        storage::fill(&self.root, 1, SIZE);
        for n in 0..20_usize {
            std::fs::write(self.root.join(format!("large-{n}")), vec![n as u8; 100_000]).expect("a file");
        }
    }

    async fn change(&self) {
        storage::wreck(&self.root);
        std::fs::write(self.root.join("surplus"), b"1").expect("a file");
    }

    async fn contents(&self) -> Contents {
        let mut all = Manifest::of(&self.root).0;
        // The root is the volume's own.
        all.remove(b"".as_slice());
        all.into_iter().map(|(path, entry)| (path.escape_ascii().to_string(), format!("{entry:?}"))).collect()
    }

    async fn write_pairs(&self, stop: CancellationToken) {
        let mut n = 1_u64;
        while !stop.is_cancelled() {
            for name in ["pair-a", "pair-b"] {
                let beside = self.root.join(format!("{name}.new"));
                std::fs::write(&beside, n.to_string()).expect("a file");
                std::fs::rename(&beside, self.root.join(name)).expect("put it in its place");
            }
            n += 1;
            tokio::task::yield_now().await;
        }
    }

    async fn pair(&self) -> (u64, u64) {
        let get =
            |name: &str| std::fs::read_to_string(self.root.join(name)).map_or(0, |n| n.parse().expect("a number"));
        (get("pair-a"), get("pair-b"))
    }

    fn vanish(&mut self) {
        std::fs::rename(&self.root, self.away()).expect("take the volume away");
    }

    async fn come_back(&mut self) {
        std::fs::rename(self.away(), &self.root).expect("bring the volume back");
    }

    fn leftovers(&self) -> Vec<String> {
        names(&self.root, |n| n.starts_with(".keepsake"))
    }
}
