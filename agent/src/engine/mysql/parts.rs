//! The artifacts of a dump: one stream of everything, or groups of tables, then what is made of them, then views.

use std::collections::BTreeMap;

use keepsake_core::error::{Error, Kind, Result};
use keepsake_core::format::sql::Summary;
use keepsake_core::id::ArtifactName;

use crate::engine::Source;

/// A dump in one stream.
pub(super) const WHOLE: &str = "dump.sql";
/// Triggers, routines and events, where tables are in groups.
pub(super) const OBJECTS: &str = "objects.sql";
/// Views, where tables are in groups and there are any.
pub(super) const VIEWS: &str = "views.sql";

/// What an artifact is for, in the order of loading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Everything.
    Whole,
    /// Tables with their rows, and sequences.
    Data,
    /// Triggers, routines, events.
    Objects,
    /// Views.
    Views,
}

/// One artifact of a dump.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) name: ArtifactName,
    pub(super) length: u64,
    pub(super) role: Role,
}

/// The name of a group of tables.
pub(super) fn data(group: usize) -> Result<ArtifactName> {
    ArtifactName::new(format!("data-{group}.sql"))
}

/// The artifacts of a source in the order of loading.
///
/// # Errors
/// `Corrupt` unless they are exactly those of one dump.
pub(super) fn of(source: &dyn Source) -> Result<Vec<Part>> {
    let artifacts = source.artifacts();
    let mut there: BTreeMap<String, (ArtifactName, u64)> =
        artifacts.iter().map(|(name, length)| (name.as_str().to_owned(), (name.clone(), *length))).collect();
    let mut parts = Vec::new();
    let mut take = |name: &str, role| {
        let found = there.remove(name);
        let is_there = found.is_some();
        parts.extend(found.map(|(name, length)| Part { name, length, role }));
        is_there
    };
    let whole = if take(WHOLE, Role::Whole) {
        true
    } else {
        let mut groups = 0_usize;
        while take(data(groups)?.as_str(), Role::Data) {
            groups += 1;
        }
        let objects = take(OBJECTS, Role::Objects);
        take(VIEWS, Role::Views);
        groups > 0 && objects
    };
    // Two of one name are one too many as well.
    if whole && there.is_empty() && parts.len() == artifacts.len() {
        return Ok(parts);
    }
    let names: Vec<_> = artifacts.iter().map(|(n, _)| n.as_str()).collect();
    Err(Error::new(
        Kind::Corrupt,
        format!(
            "such a dump is {WHOLE} alone, or data-0.sql, data-1.sql … with {OBJECTS} and perhaps {VIEWS}; this one has \
             {names:?}: restore another set"
        ),
    ))
}

impl Part {
    /// Whether what was read in it is what such an artifact holds: one in the place of another would be loaded in the wrong order.
    ///
    /// # Errors
    /// `Corrupt`, saying what does not belong there.
    pub(super) fn holds(&self, summary: &Summary) -> Result<()> {
        let tables = !summary.rows.is_empty() || !summary.sequences.is_empty();
        let objects = summary.triggers + summary.routines + summary.events > 0;
        let views = !summary.views.is_empty();
        let allowed = match self.role {
            Role::Whole => [true, true, true],
            Role::Data => [true, false, false],
            Role::Objects => [false, true, false],
            Role::Views => [false, false, true],
        };
        let found = [(tables, "tables or sequences"), (objects, "triggers, routines or events"), (views, "views")];
        match found.iter().zip(allowed).find(|((there, _), allowed)| *there && !allowed) {
            None => Ok(()),
            Some(((_, what), _)) => Err(Error::new(
                Kind::Corrupt,
                format!(
                    "the artifact {} holds {what}, which belong into another of the dump: it is in the wrong place",
                    self.name
                ),
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Named(Vec<&'static str>);

    #[async_trait::async_trait]
    impl Source for Named {
        fn artifacts(&self) -> Vec<(ArtifactName, u64)> {
            self.0.iter().map(|n| (ArtifactName::new(*n).unwrap(), 1)).collect()
        }
        fn recorded(&self) -> Option<&keepsake_core::record::DumpReport> {
            None
        }
        async fn open(&self, name: &ArtifactName) -> Result<Box<dyn crate::engine::ArtifactSource>> {
            Err(Error::new(Kind::NotFound, name.to_string()))
        }
    }

    #[test]
    fn exactly_the_artifacts_of_one_dump() {
        let order = |names: &[&'static str]| {
            of(&Named(names.to_vec())).map(|parts| parts.iter().map(|p| p.name.to_string()).collect::<Vec<_>>())
        };
        assert_eq!(order(&["dump.sql"]).unwrap(), ["dump.sql"]);
        assert_eq!(
            order(&["views.sql", "objects.sql", "data-1.sql", "data-0.sql"]).unwrap(),
            ["data-0.sql", "data-1.sql", "objects.sql", "views.sql"]
        );
        for bad in [
            &[][..],
            &["data-0.sql"],
            &["objects.sql"],
            &["views.sql", "objects.sql"],
            &["data-1.sql", "objects.sql"],
            &["data-0.sql", "data-2.sql", "objects.sql"],
            &["dump.sql", "objects.sql"],
            &["data-0.sql", "data-0.sql", "objects.sql"],
            &["data-0.sql", "objects.sql", "other.sql"],
        ] {
            assert_eq!(order(bad).unwrap_err().kind(), Kind::Corrupt, "{bad:?}");
        }
    }
}
