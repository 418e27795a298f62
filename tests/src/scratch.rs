//! Temporary folders and free ports.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// A folder of this test's own, gone at its end. Others may enter it, because servers run as another user.
#[derive(Debug)]
pub struct Scratch(tempfile::TempDir);

impl Scratch {
    /// A new one.
    pub fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("keepsake-test-").tempdir().expect("make a temporary folder");
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755))
            .expect("open the temporary folder");
        Self(dir)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// A new folder in it, with this mode.
    pub fn folder(&self, name: &str, mode: u32) -> PathBuf {
        let path = self.path().join(name);
        std::fs::create_dir_all(&path).expect("make a folder");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("set a folder's mode");
        path
    }
}

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}

/// A port that nobody listens on now. Another process may take it before it is used: start again then.
pub fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).and_then(|l| l.local_addr()).expect("find a free port").port()
}
