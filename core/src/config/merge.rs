//! Entries on their way out: of one key one expectation, and no key that is not what its entry says.
//!
//! System's database does not forbid that two rows make the same key (two applications of a service with one id, ids that are alike when written as a
//! name). Which of them Backend has is the one that was written last, and nobody knows which that was: either is right.

use std::collections::VecDeque;

use super::{ConfigEntry, Must, classify};
use crate::error::{Error, Kind, Result};

/// So many keys back an expectation of the same key is found: rows that make the same keys come one after another, each with at most four.
const BACK: usize = 8;

/// Merges. Give it entries in an order in which those of one key are near each other.
#[derive(Debug, Default)]
pub struct Merging {
    texts: VecDeque<ConfigEntry>,
    /// The last member or field: the same again says nothing.
    last: Option<ConfigEntry>,
}

impl Merging {
    /// Takes the next entry; what can no longer change goes to `to`.
    ///
    /// # Errors
    /// `Internal` when the key is not what the entry says: then it would be called surplus elsewhere.
    pub fn take(&mut self, entry: ConfigEntry, to: &mut Vec<ConfigEntry>) -> Result<()> {
        if !classify(&entry.key).is_some_and(|(kind, service)| kind == entry.kind && service == entry.service) {
            let ConfigEntry { kind, service, .. } = &entry;
            let text = format!(
                "a key that is expected (kind {kind}, service {service:?}) would not be found again as what it is"
            );
            return Err(Error::new(Kind::Internal, text));
        }
        let Must::Text { any_of, or_absent } = &entry.must else {
            self.finish(to);
            if self.last.as_ref() != Some(&entry) {
                to.push(entry.clone());
                self.last = Some(entry);
            }
            return Ok(());
        };
        for other in &mut self.texts {
            let ConfigEntry { key, must: Must::Text { any_of: others, or_absent: others_absent }, .. } = other else {
                continue;
            };
            if *key == entry.key {
                others.extend(any_of.iter().filter(|text| !others.contains(text)).cloned().collect::<Vec<_>>());
                *others_absent |= or_absent;
                return Ok(());
            }
        }
        if self.texts.len() == BACK {
            to.extend(self.texts.pop_front());
        }
        self.texts.push_back(entry);
        Ok(())
    }

    /// All that is left goes to `to`.
    pub fn finish(&mut self, to: &mut Vec<ConfigEntry>) {
        to.extend(self.texts.drain(..));
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::super::ConfigKind;
    use super::*;

    fn text(key: &str, value: &str) -> ConfigEntry {
        let must = Must::Text { any_of: vec![Bytes::copy_from_slice(value.as_bytes())], or_absent: false };
        ConfigEntry {
            kind: ConfigKind::Service,
            service: "7".to_owned(),
            key: Bytes::copy_from_slice(key.as_bytes()),
            must,
        }
    }

    fn merged(entries: Vec<ConfigEntry>) -> Vec<ConfigEntry> {
        let (mut merging, mut to) = (Merging::default(), Vec::new());
        for entry in entries {
            merging.take(entry, &mut to).unwrap();
        }
        merging.finish(&mut to);
        to
    }

    #[test]
    fn two_rows_of_one_key_are_one_expectation() {
        let got = merged(vec![
            text("service/id:7/state", "a"),
            text("service/id:7/backend_version", "1"),
            text("service/id:7/state", "b"),
        ]);
        assert_eq!(got.len(), 2);
        let Must::Text { any_of, or_absent } = &got[0].must else { panic!("no text") };
        assert_eq!(
            (any_of.as_slice(), *or_absent),
            ([Bytes::from_static(b"a"), Bytes::from_static(b"b")].as_slice(), false)
        );
        // The same twice is the same.
        assert_eq!(merged(vec![text("service/id:7/state", "a"); 3]), [text("service/id:7/state", "a")]);
    }

    #[test]
    fn the_same_member_twice_is_one() {
        let member = |m: &'static str| ConfigEntry {
            must: Must::Member(Bytes::from_static(m.as_bytes())),
            ..text("service_id:7/applications", "")
        };
        let of_application = |m| ConfigEntry { kind: ConfigKind::Application, ..member(m) };
        let all = ["a", "a", "b", "a"].map(of_application).to_vec();
        assert_eq!(merged(all), ["a", "b", "a"].map(of_application));
    }

    #[test]
    fn nothing_is_lost_and_the_order_stays() {
        let all: Vec<_> = (0..40).map(|n| text("service/id:7/state", &n.to_string())).collect();
        let Must::Text { any_of, .. } = &merged(all)[0].must else { panic!("no text") };
        assert_eq!(any_of.len(), 40);
        let mut other = text("service/id:8/state", "a");
        other.service = "8".to_owned();
        assert_eq!(
            merged(vec![text("service/id:7/state", "a"), other.clone()]),
            [text("service/id:7/state", "a"), other]
        );
    }

    #[test]
    fn a_key_that_is_something_else_is_an_error() {
        for wrong in ["service/id:8/state", "stats/{service:7}/cinstances", "service/provider_key:7/id", ""] {
            let refused = Merging::default().take(text(wrong, "a"), &mut Vec::new());
            assert_eq!(refused.unwrap_err().kind(), Kind::Internal, "{wrong}");
        }
    }
}
