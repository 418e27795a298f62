//! Restoring without Keepsake: what `RESTORE-1.md` in the repository says, run word for word.

use std::path::Path;

use crate::child::{run, tool_command};
use crate::house::House;

/// The chapters that every restore by hand needs.
const ALWAYS: [&str; 4] = [
    "## 1. Say where things are",
    "## 2. Believe the signing key",
    "## 3. Choose a set and check its record",
    "## 4. Open the set's key, and read artifacts",
];

/// The chapter on system-mysql.
pub const SYSTEM_MYSQL: &str = "### system-mysql";
/// The chapter on both Redis.
pub const REDIS: &str = "### backend-redis, and system-redis in the same way";
/// The chapter on zync-database.
pub const ZYNC: &str = "### zync-database";
/// The chapter on system-storage.
pub const STORAGE: &str = "### system-storage";

/// Follows the repository's own page for one installation and one store, with these variables set.
///
/// # Errors
/// Everything that the shell printed, if it ended with another status than 0.
pub fn restore(
    house: &House,
    installation: &str,
    chapter: &str,
    variables: &[(&str, String)],
) -> Result<String, String> {
    let page =
        std::fs::read_to_string(house.repository().join("RESTORE-1.md")).expect("RESTORE-1.md in the repository");
    let script: String = ALWAYS.iter().chain([&chapter]).map(|heading| blocks(&page, heading)).collect();
    // What was pinned at `init`, outside the repository.
    let pin = std::fs::read(house.path("keepsake.trust.json")).expect("the pin file");
    let pin: serde_json::Value = serde_json::from_slice(&pin).expect("JSON");
    let signer = pin["signers"][0].as_str().expect("a signer's fingerprint").to_owned();
    let plain = house.scratch.folder("by-hand", 0o700);
    let mut bash = tool_command("bash");
    bash.arg("-c")
        .arg(script)
        .env("REPOSITORY", house.repository())
        .env("INSTALLATION", installation)
        .env("IDENTITY", house.path("identity-2"))
        .env("SIGNER", signer)
        .env("SET", "")
        .env("PLAIN", &plain)
        .envs(variables.iter().map(|(name, value)| (*name, value)));
    let done = run(&mut bash);
    let told = format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    if done.status.success() { Ok(told) } else { Err(format!("{}: {told}", done.status)) }
}

/// A file of options for the client of MySQL and MariaDB, so that the password is on no command line.
pub fn mysql_client(house: &House, port: u16, password_file: &Path) -> String {
    let password = std::fs::read_to_string(password_file).expect("the password file");
    let quoted = password.trim_end().replace('\\', "\\\\").replace('"', "\\\"");
    let path = house.scratch.path().join("client.cnf");
    let text = format!("[client]\nhost=127.0.0.1\nport={port}\nuser=root\npassword=\"{quoted}\"\n");
    std::fs::write(&path, text).expect("write client.cnf");
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("set its mode");
    let client = ["mariadb", "mysql"]
        .into_iter()
        .find(|c| run(tool_command("sh").args(["-c", &format!("command -v {c}")])).status.success())
        .expect("a client of MySQL or MariaDB");
    format!("{client} --defaults-file={}", path.display())
}

/// The blocks of commands under a heading, up to the next one.
fn blocks(page: &str, heading: &str) -> String {
    let chapter = page.split_once(heading).unwrap_or_else(|| panic!("there is no chapter {heading}")).1;
    let mut script = String::new();
    let mut inside = false;
    for line in chapter.lines() {
        match (inside, line) {
            (false, "```bash") => inside = true,
            (true, "```") => inside = false,
            (true, _) => {
                script.push_str(line);
                script.push('\n');
            }
            (false, _) if line.starts_with("## ") || line.starts_with("### ") => break,
            (false, _) => {}
        }
    }
    assert!(!script.is_empty(), "the chapter {heading} has no commands");
    script
}
