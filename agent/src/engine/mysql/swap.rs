//! Which tables are moved where, worked out from where they are: the same statement finishes a swap that was torn, or reverts it.

use std::collections::BTreeSet;

use keepsake_core::error::Result;

use super::server::{Server, name};
use super::shadow::Shadow;
use super::{busy, facts};

type Names = BTreeSet<String>;

/// Where tables are now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Places {
    pub(super) live: Names,
    /// Staged.
    pub(super) new: Names,
    /// Put aside.
    pub(super) old: Names,
}

/// A place of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Live,
    New,
    Old,
}

/// One table's move.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Move {
    table: String,
    from: Place,
    to: Place,
    /// What it is called there.
    named: String,
}

impl Move {
    fn new(table: &str, from: Place, to: Place) -> Self {
        Self { table: table.to_owned(), from, to, named: table.to_owned() }
    }
}

/// What a table is called in the staged schema that was made live since, where one waits that was live before.
const SINCE: &str = "made_since_";

/// Asks for the places.
pub(super) async fn places(server: &mut Server, database: &str, shadow: &Shadow) -> Result<Places> {
    Ok(Places {
        live: facts::movable(server, database).await?,
        new: facts::movable(server, &shadow.new).await?,
        old: facts::movable(server, &shadow.old).await?,
    })
}

impl Places {
    /// What is left to do until the staged tables are live and what was live is aside.
    pub(super) fn forward(&self, staged: &Names, before: &Names) -> Vec<Move> {
        self.moves(before, Place::Old, staged, Place::New)
    }

    /// The mirror. A table that somebody has made anew in the place of one that waits goes first: it is dropped with all that was written since.
    pub(super) fn back(&self, staged: &Names, before: &Names) -> Vec<Move> {
        let moves = self.moves(staged, Place::New, before, Place::Old);
        let leaves = |table: &str| moves.iter().any(|m| m.from == Place::Live && m.table == table);
        let in_the_way =
            moves.iter().filter(|m| m.to == Place::Live && self.live.contains(&m.table) && !leaves(&m.table));
        let free = (0..).map(|n| format!("{SINCE}{n}")).filter(|name| !self.new.contains(name));
        let since =
            in_the_way.zip(free).map(|(m, named)| Move { named, ..Move::new(&m.table, Place::Live, Place::New) });
        since.chain(moves.iter().cloned()).collect()
    }

    /// Leaving tables go from live to `aside`, coming ones from `beside` to live. A live table of both lists is the leaving one as long as the
    /// coming one is still beside; a table of neither list is not ours.
    fn moves(&self, leaving: &Names, aside: Place, coming: &Names, beside: Place) -> Vec<Move> {
        let (gone, waiting) = (self.names(aside), self.names(beside));
        let leaves = |table: &&String| {
            self.live.contains(*table)
                && !gone.contains(*table)
                && (waiting.contains(*table) || !coming.contains(*table))
        };
        let out = leaving.iter().filter(leaves).map(|t| Move::new(t, Place::Live, aside));
        let come = coming.iter().filter(|table| waiting.contains(*table));
        let come = come.map(|t| Move::new(t, beside, Place::Live));
        out.chain(come).collect()
    }

    fn names(&self, place: Place) -> &Names {
        match place {
            Place::Live => &self.live,
            Place::New => &self.new,
            Place::Old => &self.old,
        }
    }
}

/// Makes the moves, in one statement: on MySQL 8 and MariaDB 10.6 and on it is all or nothing, before that a crash may tear it.
///
/// # Errors
/// `Busy`, naming who, when a client holds one of the tables.
pub(super) async fn make(server: &mut Server, database: &str, shadow: &Shadow, moves: &[Move]) -> Result<()> {
    if moves.is_empty() {
        return Ok(());
    }
    let schema = |place| match place {
        Place::Live => name(database),
        Place::New => name(&shadow.new),
        Place::Old => name(&shadow.old),
    };
    let one = |m: &Move| {
        if m.named != m.table {
            tracing::warn!(table = %m.table, "was made anew since the load; it goes with all that was written since");
        }
        format!("{}.{} TO {}.{}", schema(m.from), name(&m.table), schema(m.to), name(&m.named))
    };
    let sql = format!("RENAME TABLE {}", moves.iter().map(one).collect::<Vec<_>>().join(", "));
    let done = server.run("swap the tables", &sql).await;
    busy::named(server, database, done).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(of: &str) -> Names {
        of.chars().map(|c| c.to_string()).collect()
    }

    fn apply(places: &Places, moves: &[Move]) -> Places {
        let mut after = places.clone();
        for m in moves {
            assert!(after.set(m.from).remove(&m.table), "{m:?} of {places:?}");
            assert!(after.set(m.to).insert(m.named.clone()), "{m:?} of {places:?}");
        }
        after
    }

    impl Places {
        fn set(&mut self, place: Place) -> &mut Names {
            match place {
                Place::Live => &mut self.live,
                Place::New => &mut self.new,
                Place::Old => &mut self.old,
            }
        }
    }

    #[test]
    fn from_wherever_it_was_torn_it_ends_with_all_of_one() {
        for (before, staged) in [("abc", "bcd"), ("abc", ""), ("", "ab"), ("ab", "ab"), ("", ""), ("abc", "xyz")] {
            let (before, staged) = (names(before), names(staged));
            // A table that is neither's stays live.
            let live = |of: &Names| of.iter().cloned().chain(["q".to_owned()]).collect::<Names>();
            let old = Places { live: live(&before), new: staged.clone(), old: Names::new() };
            let new = Places { live: live(&staged), new: Names::new(), old: before.clone() };
            let there = old.forward(&staged, &before);
            assert_eq!(apply(&old, &there), new);
            let back = new.back(&staged, &before);
            assert_eq!(apply(&new, &back), old);
            let torn = (0..=there.len()).map(|n| apply(&old, &there[..n]));
            for places in torn.chain((0..=back.len()).map(|n| apply(&new, &back[..n]))) {
                let (on, off) = (places.forward(&staged, &before), places.back(&staged, &before));
                for n in 0..=on.len() {
                    let again = apply(&places, &on[..n]);
                    assert_eq!(apply(&again, &again.forward(&staged, &before)), new, "{places:?}");
                    assert_eq!(apply(&again, &again.back(&staged, &before)), old, "{places:?}");
                }
                for n in 0..=off.len() {
                    let again = apply(&places, &off[..n]);
                    assert_eq!(apply(&again, &again.forward(&staged, &before)), new, "{places:?}");
                    assert_eq!(apply(&again, &again.back(&staged, &before)), old, "{places:?}");
                }
            }
        }
    }

    #[test]
    fn what_was_made_anew_since_does_not_keep_back_what_was_there() {
        // `b` is not in the set, and `c` is: both were made by somebody in the place of what waits.
        let (before, staged) = (names("abc"), names("acd"));
        for new in ["", "c", "acd"] {
            let places = Places { live: names("bc"), new: names(new), old: names("abc") };
            let back = apply(&places, &places.back(&staged, &before));
            assert_eq!((&back.live, &back.old), (&before, &Names::new()), "{new}");
            // And once more, when an earlier attempt has done so already.
            let again = Places { live: names("b"), new: back.new, old: names("b") };
            assert_eq!(apply(&again, &again.back(&staged, &before)).live, names("b"), "{new}");
        }
    }
}
