//! Where System has its files, and whether a set would have them: what the topology says is compared with what the cluster says.

use keepsake_core::error::{Error, Kind, Result};

use crate::inventory::Inventory;
use crate::topology::InstallationSettings;

/// A fact of the cluster's objects: where System has its files.
pub(crate) const FILES_IN: &str = "files_in";
/// Its value when they are on the volume `system-storage`.
pub(crate) const VOLUME: &str = "volume";
const ENGINE: &str = "files";

/// Where files are that no set of this installation has; none when it has them all, or nobody can tell.
///
/// # Errors
/// `Invalid` when a set would silently be without files, or have a volume that nobody uses.
pub(super) fn elsewhere(installation: &InstallationSettings, inventory: &Inventory) -> Result<Option<String>> {
    let found = inventory.answers().find_map(|found| found.facts.get(FILES_IN)).map(String::as_str);
    let has_component = installation.components.iter().any(|c| c.engine.as_str() == ENGINE);
    let refuse = |text: String| Err(Error::new(Kind::Invalid, format!("installation {}: {text}", installation.name)));
    match (found, installation.files_external) {
        (Some(VOLUME), true) => Ok(Some("the volume system-storage, which the topology leaves out".to_owned())),
        (Some(VOLUME), false) if !has_component => refuse(
            "System has its files on the volume system-storage, and the topology lists no component of engine files: list it, or say `files: external` if they are backed up by other means"
                .to_owned(),
        ),
        (Some(place), false) if place != VOLUME => refuse(format!(
            "System has its files in {place}, which no agent reads: say `files: external` in the topology, list no component of engine files, and back the \
             bucket up with its own means"
        )),
        (Some(place), true) => Ok(Some(place.to_owned())),
        (None, true) => Ok(Some("another place, as the topology says".to_owned())),
        (_, false) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use keepsake_core::record::Facts;

    use super::*;
    use crate::inventory::Found;
    use crate::topology::Topology;

    fn judged(files: &str, storage: bool, found: Option<&str>) -> Result<Option<String>, String> {
        let storage =
            if storage { "      - { name: system-storage, engine: files, agent: 'http://localhost:2' }" } else { "" };
        let text = format!(
            "
repository: {{ url: 'file:///backups' }}
installations:
  - name: prod
{files}
    components:
      - {{ name: system-mysql, engine: mysql, agent: 'http://localhost:1' }}
{storage}
"
        );
        let topology = Topology::parse(&text, Path::new("/")).map_err(|e| e.chain())?;
        let facts = found.map(|place| (FILES_IN.to_owned(), place.to_owned())).into_iter().collect::<Facts>();
        let found = Found {
            engine: "objects".parse().unwrap(),
            server: "Kubernetes".to_owned(),
            agent_version: String::new(),
            size: 0,
            facts,
            problems: Vec::new(),
            cannot_undo: None,
            cannot_hold: None,
            cannot_load: None,
            in_place_is_whole: false,
            in_place_is_told: false,
            staging_free: None,
            loads: Vec::new(),
        };
        let inventory = Inventory::from_answers([("objects".parse().unwrap(), Ok(found))]);
        elsewhere(&topology.installations[0], &inventory).map_err(|e| e.chain())
    }

    #[test]
    fn a_set_without_files_is_made_only_where_somebody_said_so() {
        let external = "    files: external";
        assert_eq!(judged("", true, Some("volume")), Ok(None));
        assert_eq!(judged("", true, None), Ok(None));
        assert_eq!(judged("", false, None), Ok(None), "nobody can tell");
        assert!(judged("", false, Some("volume")).unwrap_err().contains("lists no component of engine files"));
        for storage in [false, true] {
            let told = judged("", storage, Some("S3 bucket b")).unwrap_err();
            assert!(told.contains("S3 bucket b") && told.contains("files: external"), "{told}");
        }
        assert_eq!(judged(external, false, Some("S3 bucket b")), Ok(Some("S3 bucket b".to_owned())));
        assert!(judged(external, false, Some("volume")).unwrap().unwrap().contains("system-storage"));
        assert!(judged(external, false, None).unwrap().is_some());
        assert!(judged(external, true, None).unwrap_err().contains("choose one"));
    }
}
