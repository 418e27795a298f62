//! What a load or a dump may leave beside the live data, and must not once its run is over.

use std::path::Path;

use super::{House, Installation, files_below};

impl House {
    /// Files and folders of ours in data folders, volumes and scratch folders of an installation, and schemas and databases of ours in its servers.
    pub async fn leftovers(&self, installation: &Installation) -> Vec<String> {
        let mut left = beside(installation).await;
        left.extend(own(&installation.storage, ".keepsake"));
        for redis in [&installation.backend, &installation.system_redis] {
            left.extend(own(redis.data(), "temp-"));
            left.extend(own(redis.data(), ".keepsake"));
        }
        for agent in &installation.agents {
            let scratch = self.scratch.path().join(format!("{}/{}/scratch", installation.name, agent.component));
            if scratch.is_dir() {
                left.extend(files_below(&scratch).into_iter().map(|p| p.display().to_string()));
            }
        }
        left
    }
}

/// Schemas and databases of ours beside the live ones.
async fn beside(installation: &Installation) -> Vec<String> {
    let sql = "SELECT GROUP_CONCAT(schema_name) FROM information_schema.schemata WHERE schema_name LIKE '\\_keepsake%'";
    let schemas = installation.mysql.value(sql).await.filter(|names| names != "NULL");
    let sql = "SELECT datname FROM pg_database WHERE datname LIKE '\\_keepsake%'";
    let databases = installation.zync.client("postgres").await.query(sql, &[]).await.expect("list the databases");
    schemas.into_iter().chain(databases.iter().map(|row| row.get(0))).collect()
}

fn own(folder: &Path, prefix: &str) -> Vec<String> {
    let entries = std::fs::read_dir(folder).expect("list a folder");
    let names = entries.map(|e| e.expect("an entry").file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with(prefix)).collect()
}
