//! Until when something may be begun. A coordinator in the cluster runs when a node has room for it, which may be hours after it was asked for: then nobody waits
//! for it any more, and it begins nothing.

use jiff::Timestamp;
use keepsake_core::clock;
use keepsake_core::error::{Error, Kind, Result};
use keepsake_core::id::Installation;

/// Until when, as whoever made the coordinator has said. By default nobody has said anything.
#[derive(Debug, Clone, Copy, Default)]
pub struct InTime {
    /// The command that was asked for, to ask for it again.
    command: &'static str,
    before: Option<Timestamp>,
}

impl InTime {
    /// This command must have begun before then, if anything is said of it.
    pub fn of(command: &'static str, before: Option<Timestamp>) -> Self {
        Self { command, before }
    }

    /// Whether it may be begun now, by the clock of this machine. What is begun goes on, so this is asked for the last time right before that.
    ///
    /// # Errors
    /// `Conflict` when it is too late, with what to do.
    pub fn ensure(&self, installation: &Installation) -> Result<()> {
        self.ensure_at(installation, clock::now())
    }

    fn ensure_at(&self, installation: &Installation, now: Timestamp) -> Result<()> {
        let Some(before) = self.before.filter(|before| now >= *before) else { return Ok(()) };
        let command = self.command;
        Err(Error::new(
            Kind::Conflict,
            format!(
                "this {command} of {installation} was to begin before {before}, and by the clock of this machine it is {now}: its coordinator came to run too late, \
                 or took too long until it could begin, and nobody may be waiting for it any more. It begins nothing, and has changed nothing. If it is still \
                 wanted, look at `keepsake runs --installation {installation}` and ask again: `keepsake --in-cluster {command} --installation {installation}`. If \
                 it was asked for only just now, compare the clock of the machine where it was asked for with that of the coordinator's node: one of them is wrong"
            ),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_late_is_refused_with_the_way_on() {
        let name: Installation = "prod".parse().unwrap();
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let until = InTime::of("restore", Some(at("2026-03-01T12:25:00Z")));
        for now in ["2026-03-01T12:00:00Z", "2026-03-01T12:24:59.999Z", "2001-01-01T00:00:00Z"] {
            until.ensure_at(&name, at(now)).unwrap();
        }
        for now in ["2026-03-01T12:25:00Z", "2026-03-01T20:00:00Z"] {
            let late = until.ensure_at(&name, at(now)).unwrap_err();
            assert_eq!((late.kind(), crate::exit::Exit::of(&late)), (Kind::Conflict, crate::exit::Exit::Failed));
            for word in [
                "2026-03-01T12:25:00Z",
                now,
                "has changed nothing",
                "keepsake --in-cluster restore",
                "keepsake runs",
                "clock",
            ] {
                assert!(late.chain().contains(word), "{word}: {}", late.chain());
            }
        }
        InTime::of("restore", None).ensure_at(&name, Timestamp::MAX).unwrap();
        InTime::default().ensure_at(&name, Timestamp::MAX).unwrap();
    }
}
