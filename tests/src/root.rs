//! Where the programs of a server or client come from: this machine, or a release of Debian that `tests/matrix/unpack` has unpacked into a folder.
//!
//! Programs of such a folder run by `tests/matrix/enter`: with that folder as their root, and the temporary folder where it is, so that paths mean the
//! same inside and outside.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::child::{NOBODY, is_root, run, server_command, tool_command};

/// The script that runs a program of a root.
const ENTER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/matrix/enter");
/// Where programs are looked for.
const PLACES: [&str; 4] = ["usr/sbin", "usr/bin", "sbin", "bin"];

/// This machine, or an unpacked root.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Root(Option<PathBuf>);

impl Root {
    /// This machine.
    pub fn host() -> Self {
        Self(None)
    }

    /// The unpacked root of this name below `KEEPSAKE_MATRIX_DIR`; `None` if it was not to be had, or nobody may enter it.
    pub fn unpacked(name: &str) -> Option<Self> {
        let all = std::env::var_os("KEEPSAKE_MATRIX_DIR").map(PathBuf::from)?;
        let folder = std::path::absolute(all.join(name)).ok()?;
        (is_root() && folder.is_dir()).then_some(Self(Some(folder)))
    }

    /// A word for it that can be part of a file's name.
    pub fn name(&self) -> &str {
        self.0.as_deref().and_then(Path::file_name).and_then(|n| n.to_str()).unwrap_or("host")
    }

    /// Where an absolute path of this root is on this machine.
    pub fn outside(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.0.as_ref().map_or_else(|| path.to_owned(), |f| f.join(path.strip_prefix("/").unwrap_or(path)))
    }

    /// The first of these programs that it has, as it is called inside.
    pub fn program(&self, names: &[&str]) -> Option<PathBuf> {
        let own = std::env::var_os("PATH").filter(|_| self.0.is_none()).unwrap_or_default();
        let folders: Vec<PathBuf> =
            std::env::split_paths(&own).chain(PLACES.iter().map(|p| Path::new("/").join(p))).collect();
        let has = |path: &PathBuf| self.outside(path).is_file() || self.outside(path).is_symlink();
        names.iter().find_map(|name| folders.iter().map(|f| f.join(name)).find(has))
    }

    /// As [`server_command`].
    pub fn server_command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let Some(folder) = &self.0 else { return server_command(program) };
        let mut command = tool_command(ENTER);
        // To become another user takes the promise to die away: it is given anew.
        command.arg(folder).args(["/usr/bin/setpriv", "--pdeathsig", "KILL", "--clear-groups"]);
        command.arg("--reuid").arg(NOBODY.0.to_string()).arg("--regid").arg(NOBODY.1.to_string());
        command.arg("--").arg(program);
        command
    }

    /// As [`tool_command`].
    pub fn tool_command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let Some(folder) = &self.0 else { return tool_command(program) };
        let mut command = tool_command(ENTER);
        command.arg(folder).arg(program);
        command
    }

    /// The first version number that a program tells: `7.0.15`.
    pub fn version(&self, program: &Path) -> Version {
        let told = run(self.tool_command(program).arg("--version"));
        assert!(told.status.success(), "{} --version: {told:?}", program.display());
        let text = String::from_utf8_lossy(&told.stdout);
        let number = |word: &str| {
            let mut parts = word.trim_start_matches("v=").split('-').next()?.split('.').map(|n| n.parse().ok());
            Some(Version { major: parts.next()??, minor: parts.next()?? })
        };
        text.split_whitespace().find_map(number).unwrap_or_else(|| panic!("no version in {text}"))
    }

    /// A folder with these programs for an agent that runs on this machine. They are small scripts: what they do not pass on is lost.
    pub fn tools(&self, folder: &Path, programs: &[&Path]) -> PathBuf {
        std::fs::create_dir_all(folder).expect("make a folder for tools");
        for program in programs {
            let call = match &self.0 {
                None => format!("'{}'", program.display()),
                Some(root) => format!("'{ENTER}' '{}' '{}'", root.display(), program.display()),
            };
            let tool = folder.join(program.file_name().expect("a program's name"));
            std::fs::write(&tool, format!("#!/bin/sh\nexec {call} \"$@\"\n")).expect("write a tool");
            std::fs::set_permissions(&tool, std::fs::Permissions::from_mode(0o755)).expect("make a tool executable");
        }
        folder.to_owned()
    }
}

/// What matters of a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// The first number.
    pub major: u32,
    /// The second.
    pub minor: u32,
}
