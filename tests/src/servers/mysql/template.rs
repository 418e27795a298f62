//! The data folder of an empty server: made once for each root and version, copied for each test.

use std::path::Path;

use super::{FILES, MysqlServer, PASSWORD, path_with_sbin};
use crate::child::{give_to_servers, is_root, run};
use crate::root::Root;
use crate::scratch::Scratch;

/// Copies the data folder of an empty server with root's password set.
pub(super) fn copy(root: &Root, to: &Path) {
    let version = root.version(&MysqlServer::program(root));
    let name = format!("mysql-{}-{}.{}", root.name(), version.major, version.minor);
    crate::template::copy(&name, to, |data| make(root, data));
}

fn make(root: &Root, data: &Path) {
    let scratch = Scratch::new();
    let tmp = scratch.folder("tmp", 0o777);
    give_to_servers(data);
    give_to_servers(&tmp);
    let users = scratch.path().join("users.sql");
    let password = PASSWORD.replace('\\', "\\\\").replace('\'', "\\'");
    std::fs::write(
        &users,
        format!(
            "FLUSH PRIVILEGES;\nALTER USER root@localhost IDENTIFIED BY '{password}';\n\
             DROP USER IF EXISTS root@'127.0.0.1', root@'::1';\nCREATE USER root@'%' IDENTIFIED BY '{password}';\nGRANT ALL ON *.* TO root@'%' WITH GRANT OPTION;\n"
        ),
    )
    .expect("write the accounts");
    let install = root.program(&["mariadb-install-db"]);
    let mut command = if let Some(install) = &install {
        let mut command = root.server_command(install);
        command.args([
            "--no-defaults",
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
            "--skip-name-resolve",
            // Before 10.6 it wants to look up the name of this machine all the same.
            "--force",
        ]);
        command
    } else {
        let mut command = root.server_command(MysqlServer::program(root));
        command.args(["--no-defaults", "--initialize-insecure"]).arg(format!("--init-file={}", users.display()));
        command
    };
    command
        .env("PATH", path_with_sbin())
        .arg(format!("--datadir={}", data.display()))
        .arg(format!("--tmpdir={}", tmp.display()))
        .args(FILES);
    let made = run(&mut command);
    assert!(made.status.success(), "make a data folder (root: {}): {made:?}", is_root());
    if install.is_some() {
        // Its installer takes no statements before 10.6.
        let mut command = root.server_command("/bin/sh");
        command
            .args(["-c", "exec \"$0\" \"$@\" <\"$USERS\""])
            .arg(MysqlServer::program(root))
            .args(["--no-defaults", "--bootstrap"])
            .env("USERS", &users)
            .arg(format!("--datadir={}", data.display()))
            .arg(format!("--tmpdir={}", tmp.display()))
            .args(FILES);
        let done = run(&mut command);
        assert!(done.status.success(), "make the accounts: {done:?}");
    }
}
