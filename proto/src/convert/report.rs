//! Reports and artifacts. Segments travel in a compact form without their keys, which follow from where they are.

use jiff::Timestamp;
use keepsake_core::error::{Context, Error, Kind, Result};
use keepsake_core::id::{ArtifactName, Attempt};
use keepsake_core::record::{ArtifactRecord, DumpReport, SegmentRecord, ToolRecord};
use keepsake_core::repository::layout;
use keepsake_core::repository::writer::Place;

use crate::v1;

/// Segments in one message at most.
const BATCH: usize = 1_000;

/// A time.
pub fn timestamp_to_wire(at: Timestamp) -> prost_types::Timestamp {
    // Before 1970 the wire wants the nanoseconds counted forward.
    let (mut seconds, mut nanos) = (at.as_second(), at.subsec_nanosecond());
    if nanos < 0 {
        seconds -= 1;
        nanos += 1_000_000_000;
    }
    prost_types::Timestamp { seconds, nanos }
}

/// A time.
///
/// # Errors
/// `Invalid` when it is outside what a calendar holds.
pub fn timestamp_from_wire(at: &prost_types::Timestamp) -> Result<Timestamp> {
    Timestamp::new(at.seconds, at.nanos).map_err(|e| Error::caused(Kind::Invalid, "a time is out of range", e))
}

/// What an engine said of a dump.
pub fn dump_report_to_wire(report: &DumpReport) -> v1::DumpReport {
    let tool = |t: &ToolRecord| v1::ToolRecord {
        tool: t.tool.clone(),
        version: t.version.clone(),
        exit_status: t.exit_status,
        end_marker: t.end_marker.clone(),
    };
    v1::DumpReport {
        server: report.server.clone(),
        tools: report.tools.iter().map(tool).collect(),
        position: report.position.clone().unwrap_or_default(),
        snapshot_opened: report.snapshot_opened.map(timestamp_to_wire),
        facts: report.facts.clone().into_iter().collect(),
        counts: report.counts.clone().into_iter().collect(),
        warnings: report.warnings.clone(),
    }
}

/// What an engine said of a dump.
///
/// # Errors
/// `Invalid` when a time is out of range.
pub fn dump_report_from_wire(report: v1::DumpReport) -> Result<DumpReport> {
    let tool = |t: v1::ToolRecord| ToolRecord {
        tool: t.tool,
        version: t.version,
        exit_status: t.exit_status,
        end_marker: t.end_marker,
    };
    Ok(DumpReport {
        server: report.server,
        tools: report.tools.into_iter().map(tool).collect(),
        position: (!report.position.is_empty()).then_some(report.position),
        snapshot_opened: report.snapshot_opened.as_ref().map(timestamp_from_wire).transpose()?,
        facts: report.facts.into_iter().collect(),
        counts: report.counts.into_iter().collect(),
        warnings: report.warnings,
    })
}

/// An artifact in compact form.
///
/// # Errors
/// `Invalid` when a segment's key is not one that this place, attempt and index can have: a forged record could otherwise make an agent read anything.
pub fn artifact_to_wire(place: &Place, artifact: &ArtifactRecord) -> Result<v1::Artifact> {
    let segments = artifact
        .segments
        .iter()
        .enumerate()
        .map(|(n, segment)| segment_to_wire(place, artifact, n as u64, segment))
        .collect::<Result<_>>()?;
    Ok(v1::Artifact {
        artifact: artifact.artifact.to_string(),
        attempt: artifact.attempt.to_string(),
        length: artifact.length,
        segments,
    })
}

fn segment_to_wire(
    place: &Place,
    artifact: &ArtifactRecord,
    index: u64,
    segment: &SegmentRecord,
) -> Result<v1::Segment> {
    let key = |again| key(place, &artifact.artifact, &artifact.attempt, index, again);
    let refuse = || {
        Error::new(
            Kind::Invalid,
            format!("segment {index} has the key {:?}, which is not one of {}", segment.key, key(0)),
        )
    };
    let again = if segment.key == key(0) {
        0
    } else {
        let again = segment.key.rsplit_once('-').and_then(|(_, n)| n.parse().ok()).ok_or_else(refuse)?;
        if again == 0 || segment.key != key(again) {
            return Err(refuse());
        }
        again
    };
    let sha256 = data_encoding::HEXLOWER
        .decode(segment.sha256.as_bytes())
        .map_err(|e| Error::caused(Kind::Invalid, format!("the SHA-256 of segment {index} is not hex"), e))?;
    Ok(v1::Segment { length: segment.length, stored: segment.stored, sha256: sha256.into(), again })
}

/// An artifact's segments, cut into messages.
///
/// # Errors
/// As [`artifact_to_wire`].
pub fn batches(place: &Place, artifact: &ArtifactRecord) -> Result<(v1::Artifact, Vec<v1::SegmentBatch>)> {
    let mut wire = artifact_to_wire(place, artifact)?;
    let mut batches = Vec::new();
    let mut first = 0;
    while !wire.segments.is_empty() {
        let rest = wire.segments.split_off(wire.segments.len().min(BATCH));
        let segments = std::mem::replace(&mut wire.segments, rest);
        let n = segments.len() as u64;
        batches.push(v1::SegmentBatch { artifact: wire.artifact.clone(), first, segments });
        first += n;
    }
    Ok((wire, batches))
}

/// An artifact from its compact form; its own segments, or those that came in batches before.
///
/// # Errors
/// `Invalid`, naming the field.
pub fn artifact_from_parts(
    place: &Place,
    artifact: v1::Artifact,
    segments: Vec<v1::Segment>,
) -> Result<ArtifactRecord> {
    let name: ArtifactName = artifact.artifact.parse().context("field `artifact`")?;
    let attempt = Attempt::try_from(artifact.attempt).context("field `attempt`")?;
    let segments = artifact
        .segments
        .into_iter()
        .chain(segments)
        .enumerate()
        .map(|(n, segment)| {
            if segment.sha256.len() != 32 {
                return Err(Error::new(
                    Kind::Invalid,
                    format!("the SHA-256 of segment {n} of {name} has not 32 bytes"),
                ));
            }
            Ok(SegmentRecord {
                key: key(place, &name, &attempt, n as u64, segment.again),
                length: segment.length,
                stored: segment.stored,
                sha256: data_encoding::HEXLOWER.encode(&segment.sha256),
            })
        })
        .collect::<Result<Vec<_>>>()?;
    let total = segments.iter().try_fold(0_u64, |sum, s| sum.checked_add(s.length));
    if total != Some(artifact.length) {
        return Err(Error::new(
            Kind::Invalid,
            format!("the segments of {name} do not add up to {} bytes", artifact.length),
        ));
    }
    Ok(ArtifactRecord { artifact: name, attempt, length: artifact.length, segments })
}

fn key(place: &Place, name: &ArtifactName, attempt: &Attempt, index: u64, again: u32) -> String {
    layout::segment(&place.installation, place.set, &place.component, name, attempt, index, again)
}

#[cfg(test)]
mod tests {
    use super::*;
    use keepsake_core::id::SetId;
    use proptest::prelude::*;

    fn place() -> Place {
        Place {
            installation: "prod".parse().unwrap(),
            set: SetId::generate(),
            component: "system-mysql".parse().unwrap(),
        }
    }

    prop_compose! {
        fn artifact(place: Place)(
            segments in proptest::collection::vec((0..1_000_000_u64, 0..1_000_000_u64, any::<[u8; 32]>(), 0..4_u32), 0..2_500),
        ) -> ArtifactRecord {
            let name: ArtifactName = "dump.sql".parse().unwrap();
            let attempt = Attempt::generate();
            let segments: Vec<_> = segments.into_iter().enumerate().map(|(n, (length, stored, sha, again))| SegmentRecord {
                key: key(&place, &name, &attempt, n as u64, again),
                length,
                stored,
                sha256: data_encoding::HEXLOWER.encode(&sha),
            }).collect();
            ArtifactRecord { artifact: name, attempt, length: segments.iter().map(|s| s.length).sum(), segments }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn artifacts_come_back_from_batches(
            (place, artifact) in Just(place()).prop_flat_map(|p| (Just(p.clone()), artifact(p))),
        ) {
            let (head, parts) = batches(&place, &artifact).unwrap();
            prop_assert!(parts.iter().all(|b| b.segments.len() <= BATCH));
            let segments = parts.into_iter().flat_map(|b| b.segments).collect();
            prop_assert_eq!(artifact_from_parts(&place, head, segments).unwrap(), artifact);
        }

        #[test]
        fn times_come_back(seconds in -60_000_000_000_i64..200_000_000_000, nanos in 0..1_000_000_000_i32) {
            let at = Timestamp::new(seconds, nanos).unwrap();
            prop_assert_eq!(timestamp_from_wire(&timestamp_to_wire(at)).unwrap(), at);
        }
    }

    #[test]
    fn a_key_from_elsewhere_is_refused() {
        let place = place();
        let mut artifact = ArtifactRecord {
            artifact: "dump.sql".parse().unwrap(),
            attempt: Attempt::generate(),
            length: 1,
            segments: vec![SegmentRecord {
                key: "sets/other/secret".to_owned(),
                length: 1,
                stored: 1,
                sha256: "00".repeat(32),
            }],
        };
        assert_eq!(artifact_to_wire(&place, &artifact).unwrap_err().kind(), Kind::Invalid);
        artifact.segments[0].key = key(&place, &artifact.artifact, &artifact.attempt, 1, 0);
        assert_eq!(artifact_to_wire(&place, &artifact).unwrap_err().kind(), Kind::Invalid, "the key of another index");
    }
}
