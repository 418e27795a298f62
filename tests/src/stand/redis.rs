//! Redis.

use std::sync::Arc;

use async_trait::async_trait;
use keepsake_agent::engine::Engine;
use keepsake_agent::engine::redis::{LoadMethod, Settings};
use keepsake_agent::engine::registry::Settings as _;
use tokio_util::sync::CancellationToken;

use super::{Contents, SIZE, Stand, names};
use crate::servers::redis::RedisServer;
use crate::threescale::{backend, system_redis};

/// A server, dumped from its data folder or over the network.
#[derive(Debug)]
pub struct Redis {
    server: RedisServer,
    shared_folder: bool,
    method: Option<LoadMethod>,
}

impl Redis {
    /// An empty one.
    pub async fn start(shared_folder: bool) -> Self {
        Self { server: RedisServer::start(&["--appendonly", "yes"]).await, shared_folder, method: None }
    }

    /// An empty one that is loaded in this way.
    pub async fn start_by(method: LoadMethod) -> Self {
        Self { method: Some(method), ..Self::start(true).await }
    }

    /// The server's data folder.
    pub fn data(&self) -> &std::path::Path {
        self.server.data()
    }
}

#[async_trait(?Send)]
impl Stand for Redis {
    fn engine(&self) -> Arc<dyn Engine> {
        let settings = Settings {
            redis_url: self.server.url(),
            redis_password_file: Some(self.server.password_file().to_owned()),
            redis_data_dir: self.shared_folder.then(|| self.server.data().to_owned()),
            redis_load_method: self.method,
            ..Settings::default()
        };
        settings.open(self.server.scratch().to_owned()).expect("an engine")
    }

    fn artifact(&self) -> &'static str {
        "dump.rdb"
    }

    fn tools(&self) -> &'static [&'static str] {
        &[]
    }

    fn keeps_old_data(&self) -> bool {
        true
    }

    async fn fill(&self) {
        backend::fill(&self.server.client(), 1, SIZE).await.expect("fill");
        system_redis::fill(&self.server.client(), 2, SIZE).await.expect("fill");
    }

    async fn change(&self) {
        backend::wreck(&self.server.client()).await.expect("wreck");
        self.server.ask::<()>(&["SET", "surplus", "1"]).await;
    }

    async fn contents(&self) -> Contents {
        let mut all = Contents::new();
        for db in 0..16 {
            let digests = self.server.digests(db, &["liveness-probe"]).await;
            all.extend(digests.into_iter().map(|(key, digest)| (format!("{db} {}", key.escape_ascii()), digest)));
        }
        all
    }

    async fn write_pairs(&self, stop: CancellationToken) {
        let mut connection = self.server.client().get_multiplexed_async_connection().await.expect("connect");
        let mut n = 1_u64;
        while !stop.is_cancelled() {
            let write = redis::pipe().atomic().set("pair:a", n).ignore().set("pair:b", n).ignore().clone();
            write.query_async::<()>(&mut connection).await.expect("write");
            n += 1;
        }
    }

    async fn pair(&self) -> (u64, u64) {
        let get = async |key| self.server.ask::<Option<u64>>(&["GET", key]).await.unwrap_or(0);
        (get("pair:a").await, get("pair:b").await)
    }

    fn vanish(&mut self) {
        self.server.kill9();
    }

    async fn come_back(&mut self) {
        self.server.restart().await;
    }

    fn leftovers(&self) -> Vec<String> {
        let mut left = names(self.server.data(), |n| n.starts_with("temp-") || n.starts_with(".keepsake"));
        left.extend(names(self.server.scratch(), |n| n.starts_with(".keepsake") || n.starts_with("redis-follows")));
        left
    }
}
