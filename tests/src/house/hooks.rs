//! Hooks that write down each call: whether the applications were stopped, and started again.

use std::path::PathBuf;

use super::House;

/// What the hooks of a house were called for.
#[derive(Debug)]
pub struct Hooks(PathBuf);

impl Hooks {
    /// Gives every installation hooks that write a line for each call: the word, the installation, the run.
    pub fn of(house: &mut House) -> Self {
        Self::that_also(house, "true")
    }

    /// As [`Hooks::of`]; what starts the applications also runs this, by a shell.
    pub fn that_also(house: &mut House, on_resume: &str) -> Self {
        let log = house.scratch.path().join("hooks.log");
        let hook = |word: &str, also: &str| {
            let path = log.display();
            format!("[[sh, -c, 'echo {word} $KEEPSAKE_INSTALLATION $KEEPSAKE_RUN >> {path}; {also}']]")
        };
        let (quiesce, resume) = (hook("quiesce", "true"), hook("resume", on_resume));
        house.consistency.push_str(&format!("    hooks: {{ quiesce: {quiesce}, resume: {resume} }}\n"));
        house.write_topology();
        Self(log)
    }

    /// The lines since it was asked last.
    pub fn said(&self) -> Vec<String> {
        if !self.0.try_exists().expect("look for what the hooks wrote") {
            return Vec::new();
        }
        let text = std::fs::read_to_string(&self.0).expect("read what the hooks wrote");
        std::fs::remove_file(&self.0).expect("begin anew");
        text.lines().map(str::to_owned).collect()
    }

    /// The first words of [`Hooks::said`].
    pub fn words(&self) -> Vec<String> {
        let word = |line: &String| line.split(' ').next().unwrap_or_default().to_owned();
        self.said().iter().map(word).collect()
    }
}
