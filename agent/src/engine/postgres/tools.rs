//! The server's own tools.

use std::path::PathBuf;

use keepsake_core::error::Result;
use keepsake_core::secret::Secret;

use super::{Settings, words};
use crate::process::Tool;

/// A tool with connection and password in its environment.
pub(super) fn tool(settings: &Settings, name: &str) -> Result<Tool> {
    let program = folder(settings).map_or_else(|| name.to_owned(), |f| f.join(name).display().to_string());
    let mut tool = Tool::of(&settings.toolbox, &program)
        .env("PGHOST", &settings.postgres_host)
        .env("PGPORT", settings.postgres_port.to_string())
        .env("PGUSER", &settings.postgres_user)
        .env("PGDATABASE", &settings.postgres_database)
        .env("PGCONNECT_TIMEOUT", "10")
        .env("PGAPPNAME", "keepsake-agent")
        // No password is ever asked for; a missing one is an error.
        .env("PGPASSFILE", "/dev/null")
        .stderr_filter(words::told);
    if let Some(ca_file) = settings.verified_by() {
        tool = tool
            .env("PGSSLMODE", "verify-full")
            .env("PGSSLROOTCERT", ca_file.display().to_string())
            // Else a ticket of Kerberos that lies about goes before TLS.
            .env("PGGSSENCMODE", "disable");
    }
    if let Some(path) = &settings.postgres_password_file {
        tool = tool.secret_env("PGPASSWORD", &Secret::from_file(path)?);
    }
    Ok(tool)
}

/// The tool's version line.
pub(super) async fn version(settings: &Settings, name: &str) -> Result<String> {
    let out = tool(settings, name)?.arg("--version").output().await?;
    Ok(out.lines().next().unwrap_or_default().to_owned())
}

/// The major number in a version line such as `pg_dump (PostgreSQL) 15.18 (Debian …)`.
pub(super) fn major(version: &str) -> Option<u32> {
    version.split_whitespace().find_map(|word| word.split('.').next()?.parse().ok())
}

fn folder(settings: &Settings) -> Option<PathBuf> {
    if let Some(folder) = &settings.postgres_bin_dir {
        return Some(folder.clone());
    }
    if settings.toolbox.tool_dir.is_some() {
        return None;
    }
    // Debian keeps each major version's tools apart; the newest reads all older servers.
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?;
    let newest = versions.filter_map(|v| v.ok()?.file_name().to_str()?.parse::<u32>().ok()).max()?;
    let folder = PathBuf::from(format!("/usr/lib/postgresql/{newest}/bin"));
    folder.join("pg_dump").try_exists().ok()?.then_some(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn tools_are_found_in_their_folder_with_their_variables() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let beside = folder.path().join("new");
        std::fs::write(&beside, "#!/bin/sh\necho \"pg_dump (PostgreSQL) $OWN $PGHOST\"\n").unwrap();
        std::fs::set_permissions(&beside, std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::rename(&beside, folder.path().join("pg_dump")).unwrap();
        let mut settings = Settings::default();
        settings.toolbox.tool_dir = Some(folder.path().to_path_buf());
        // Where the server is, is the engine's to say.
        settings.toolbox.tool_env = vec!["OWN=10.23".to_owned(), "PGHOST=elsewhere".to_owned()];
        assert_eq!(version(&settings, "pg_dump").await.unwrap(), "pg_dump (PostgreSQL) 10.23 127.0.0.1");
    }

    #[test]
    fn versions_are_read() {
        assert_eq!(major("pg_dump (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)"), Some(15));
        assert_eq!(major("psql (PostgreSQL) 9.6.24"), Some(9));
        assert_eq!(major("nonsense"), None);
    }
}
