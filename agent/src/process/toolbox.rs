//! Where a datastore's tools are and what they need to run: a folder before the `PATH`, and variables of their environment.
//!
//! Images of software collections, as that of MySQL 5.7 in 3scale 2.7, have their tools in a folder of the collection's own, with libraries of its own.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use keepsake_core::error::{Error, Kind, Result};

/// Words in names of variables that hold secrets.
const SECRET_WORDS: [&str; 6] = ["PASSWORD", "PASSWD", "PASSPHRASE", "SECRET", "TOKEN", "CREDENTIAL"];
/// Ends of such names.
const SECRET_ENDS: [&str; 3] = ["PWD", "AUTH", "_KEY"];

/// The flags of an engine that runs tools.
#[derive(Debug, Clone, Default, PartialEq, Eq, clap::Args)]
pub struct Toolbox {
    /// A folder in which tools are looked for before the PATH, for example /opt/rh/rh-mysql57/root/usr/bin
    #[arg(long, env = "KEEPSAKE_TOOL_DIR", value_parser = folder)]
    pub tool_dir: Option<PathBuf>,
    /// A variable of the tools' environment (may be repeated), for example LD_LIBRARY_PATH=/opt/rh/rh-mysql57/root/usr/lib64
    ///
    /// Never a secret: whoever may see the agent's flags may read it. Names that look like one are refused.
    #[arg(long, env = "KEEPSAKE_TOOL_ENV", value_delimiter = ',', value_name = "NAME=VALUE")]
    pub tool_env: Vec<String>,
}

impl Toolbox {
    /// Whether the variables are such as may be given so. Not done while flags are parsed: what refuses there prints the value, too.
    ///
    /// # Errors
    /// `Invalid`, with the variable's name and without its value.
    pub(crate) fn check(&self) -> Result<()> {
        self.tool_env.iter().try_for_each(|text| variable(text))
    }

    /// The variables, each with its value.
    pub(super) fn variables(&self) -> impl Iterator<Item = (&str, &str)> {
        self.tool_env.iter().filter_map(|text| text.split_once('='))
    }

    /// The `PATH` of the tools, made of the agent's.
    pub(super) fn path(&self, own: Option<OsString>) -> Option<OsString> {
        let Some(folder) = &self.tool_dir else { return own };
        let mut path = folder.clone().into_os_string();
        if let Some(own) = own {
            path.push(":");
            path.push(own);
        }
        Some(path)
    }

    /// Where tools are looked for, in words: `PROGRAM is …`.
    pub(crate) fn missing(&self) -> String {
        match &self.tool_dir {
            Some(folder) => format!("neither in {} (--tool-dir) nor in the agent's PATH", folder.display()),
            None => "not in the agent's PATH".to_owned(),
        }
    }
}

fn folder(text: &str) -> Result<PathBuf> {
    let path = Path::new(text);
    if !path.is_absolute() || text.contains(':') {
        return Err(Error::new(
            Kind::Invalid,
            format!("{text:?} is no place for tools: name one folder, from / on, without a colon"),
        ));
    }
    Ok(path.to_path_buf())
}

fn variable(text: &str) -> Result<()> {
    let refuse = |why: &str| Err(Error::new(Kind::Invalid, format!("--tool-env {why}")));
    let Some((name, _)) = text.split_once('=') else {
        return refuse("has an entry that is not of the form NAME=VALUE");
    };
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) || !name.chars().all(is_name) {
        return refuse("has an entry that is not of the form NAME=VALUE: a name has letters, digits and _");
    }
    if name == "PATH" {
        return refuse("names PATH: say --tool-dir");
    }
    if looks_secret(name) {
        return refuse(&format!(
            "names {name}, which looks like a secret, and others can read what stands there: give the engine a file, as with --mysql-password-file"
        ));
    }
    Ok(())
}

/// Whether a variable of this name may hold a secret, as `MYSQL_PWD`, `PGPASSWORD` and `REDISCLI_AUTH` do.
fn looks_secret(name: &str) -> bool {
    let name = name.to_ascii_uppercase();
    SECRET_WORDS.iter().any(|word| name.contains(word)) || SECRET_ENDS.iter().any(|end| name.ends_with(end))
}

#[cfg(test)]
mod tests {
    use clap::{Args as _, Command, FromArgMatches as _};

    use super::*;

    fn parsed(flags: &[&str]) -> std::result::Result<Toolbox, String> {
        let command = Toolbox::augment_args(Command::new("agent"));
        let line = std::iter::once("agent").chain(flags.iter().copied());
        let matches = command.try_get_matches_from(line).map_err(|e| e.to_string())?;
        let toolbox = Toolbox::from_arg_matches(&matches).unwrap();
        toolbox.check().map_err(|e| e.chain())?;
        Ok(toolbox)
    }

    #[test]
    fn flags_say_where_tools_are_and_what_they_need() {
        let both = parsed(&["--tool-dir", "/opt/bin", "--tool-env", "A=1,B=x=y", "--tool-env", "C="]).unwrap();
        assert_eq!(both.tool_dir.as_deref(), Some(Path::new("/opt/bin")));
        assert_eq!(both.variables().collect::<Vec<_>>(), [("A", "1"), ("B", "x=y"), ("C", "")]);
        assert_eq!(both.path(Some("/bin:/usr/bin".into())).unwrap(), "/opt/bin:/bin:/usr/bin");
        assert_eq!(both.path(None).unwrap(), "/opt/bin");
        assert_eq!(Toolbox::default().path(Some("/bin".into())).unwrap(), "/bin");
    }

    #[test]
    fn secrets_and_nonsense_are_refused_and_no_value_is_told() {
        for name in ["MYSQL_PWD", "PGPASSWORD", "REDISCLI_AUTH", "mysql_pwd", "VALKEYCLI_AUTH", "AWS_SECRET_ACCESS_KEY"]
        {
            let told = parsed(&["--tool-env", &format!("{name}=hunter2")]).unwrap_err();
            assert!(told.contains("secret") && told.contains("password-file") && told.contains(name), "{name}: {told}");
            assert!(!told.contains("hunter2"), "{told}");
        }
        for flags in [["--tool-env", "A"], ["--tool-env", "=1"], ["--tool-env", "1A=2"], ["--tool-env", "A B=2"]] {
            assert!(parsed(&flags).unwrap_err().contains("NAME=VALUE"), "{flags:?}");
        }
        assert!(parsed(&["--tool-env", "PATH=/bin"]).unwrap_err().contains("--tool-dir"));
        for folder in ["bin", "/a:/b", ""] {
            assert!(parsed(&["--tool-dir", folder]).is_err(), "{folder:?}");
        }
    }
}
