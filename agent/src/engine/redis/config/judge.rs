//! What is there, beside what is expected: a pure judgement, key by key.

use std::collections::HashSet;

use bytes::Bytes;
use keepsake_core::config::{Change, Difference, Wrong};

use super::groups::{Content, Group};

/// What is there under a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum There {
    /// Nothing.
    Nothing,
    /// Something of another type, or a hash that is much too large.
    Other,
    /// A text.
    Text(Vec<u8>),
    /// A set, of which all is known.
    Members(Vec<Vec<u8>>),
    /// A set, of which is known which of the expected members it has.
    Has(Vec<bool>),
    /// A hash: fields and values one after another.
    Fields(Vec<Vec<u8>>),
}

/// What is said of one key.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Judged {
    /// What makes it equal, but for members that are too many.
    pub(super) differences: Vec<Difference>,
    /// It may have members that are not expected.
    pub(super) may_have_more: bool,
    /// It is one of the expected keys: it must be there, or it is.
    pub(super) counts: bool,
}

/// Judges one key. `expires` says that it has a time to live, which no key of the Config has.
pub(super) fn judge(group: &Group, there: There, expires: bool) -> Judged {
    let mut judged = Judged { counts: !group.goes_on, ..Judged::default() };
    let wrong = if there == There::Nothing { Wrong::Missing } else { Wrong::Different };
    let mut changes = Vec::new();
    match &group.content {
        Content::Text { any_of, or_absent } => match there {
            There::Nothing if *or_absent => judged.counts = false,
            There::Text(ref found) if any_of.iter().any(|right| right == found) => {
                changes.extend(expires.then_some(Change::Persist));
            }
            there => match any_of.first() {
                Some(value) => {
                    changes.extend((there == There::Other).then_some(Change::Delete));
                    let found = match there {
                        There::Text(found) => Some(Bytes::from(found)),
                        _ => None,
                    };
                    changes.push(Change::Set { value: value.clone(), found });
                }
                None if there == There::Nothing => judged.counts = false,
                None => changes.push(Change::Delete),
            },
        },
        Content::Members(members) => {
            let lacks: Vec<bool> = match &there {
                There::Members(found) => {
                    let found: HashSet<&[u8]> = found.iter().map(Vec::as_slice).collect();
                    let expected: HashSet<&[u8]> = members.iter().map(|m| &m[..]).collect();
                    judged.may_have_more = found.iter().any(|member| !expected.contains(member));
                    members.iter().map(|member| !found.contains(&member[..])).collect()
                }
                There::Has(has) => {
                    judged.may_have_more = true;
                    members.iter().enumerate().map(|(n, _)| !has.get(n).copied().unwrap_or(false)).collect()
                }
                There::Nothing | There::Other | There::Text(_) | There::Fields(_) => vec![true; members.len()],
            };
            changes.extend((there == There::Other).then_some(Change::Delete));
            let lacking = members.iter().zip(lacks).filter(|(_, lacks)| *lacks);
            changes.extend(lacking.map(|(member, _)| Change::Add(member.clone())));
            changes.extend((expires && there != There::Other).then_some(Change::Persist));
        }
        Content::Fields(fields) => {
            changes.extend((there == There::Other).then_some(Change::Delete));
            let found: Vec<(&[u8], &[u8])> = match &there {
                There::Fields(flat) => pairs(flat),
                _ => Vec::new(),
            };
            for (name, value) in fields {
                let right = found.iter().any(|(n, v)| *n == &name[..] && *v == &value[..]);
                changes.extend((!right).then(|| Change::SetField { name: name.clone(), value: value.clone() }));
            }
            let is_expected = |name: &[u8]| fields.iter().any(|(n, _)| &n[..] == name);
            let more = found.iter().filter(|(name, _)| !is_expected(name));
            changes.extend(more.map(|(name, _)| Change::RemoveField(Bytes::copy_from_slice(name))));
            changes.extend((expires && there != There::Other).then_some(Change::Persist));
        }
    }
    let difference =
        |change| Difference { kind: group.kind, service: group.service.clone(), key: group.key.clone(), wrong, change };
    judged.differences = changes.into_iter().map(difference).collect();
    judged
}

fn pairs(flat: &[Vec<u8>]) -> Vec<(&[u8], &[u8])> {
    let names = flat.iter().step_by(2);
    let values = flat.iter().skip(1).step_by(2);
    names.zip(values).map(|(name, value)| (name.as_slice(), value.as_slice())).collect()
}

#[cfg(test)]
mod tests {
    use keepsake_core::config::ConfigKind;

    use super::*;

    fn group(content: Content) -> Group {
        let key = Bytes::from_static(b"key");
        let kind = ConfigKind::ALL[0];
        Group { kind, service: "2".to_owned(), key, content, is_part: false, goes_on: false }
    }

    fn text(any_of: &[&str], or_absent: bool) -> Group {
        group(Content::Text {
            any_of: any_of.iter().map(|t| Bytes::copy_from_slice(t.as_bytes())).collect(),
            or_absent,
        })
    }

    fn set(members: &[&str]) -> Group {
        group(Content::Members(members.iter().map(|m| Bytes::copy_from_slice(m.as_bytes())).collect()))
    }

    fn bytes(all: &[&str]) -> Vec<Vec<u8>> {
        all.iter().map(|t| t.as_bytes().to_vec()).collect()
    }

    fn changes(judged: &Judged) -> Vec<Change> {
        judged.differences.iter().map(|d| d.change.clone()).collect()
    }

    fn write(value: &str, found: Option<&str>) -> Change {
        let bytes = |t: &str| Bytes::copy_from_slice(t.as_bytes());
        Change::Set { value: bytes(value), found: found.map(bytes) }
    }

    #[test]
    fn a_text_is_right_when_it_is_one_of_those_that_it_may_be() {
        let there = |t: &str| There::Text(t.as_bytes().to_vec());
        let state = text(&["active", "suspended"], true);
        for right in [there("active"), there("suspended"), There::Nothing] {
            assert_eq!(changes(&judge(&state, right, false)), []);
        }
        assert_eq!(changes(&judge(&state, there("pending"), false)), [write("active", Some("pending"))]);
        assert!(!judge(&state, There::Nothing, false).counts && judge(&state, there("active"), false).counts);
        let plan = text(&["7"], false);
        let missing = judge(&plan, There::Nothing, false);
        assert_eq!((changes(&missing), missing.differences[0].wrong), (vec![write("7", None)], Wrong::Missing));
        let other = judge(&plan, There::Other, false);
        assert_eq!(changes(&other), [Change::Delete, write("7", None)]);
        assert!(other.differences.iter().all(|d| d.wrong == Wrong::Different));
        // A prefix, an empty text, the same with a space: not equal.
        for wrong in ["", "70", "7 ", " 7"] {
            assert_eq!(changes(&judge(&plan, there(wrong), false)), [write("7", Some(wrong))]);
        }
        assert_eq!(changes(&judge(&plan, there("7"), true)), [Change::Persist]);
    }

    #[test]
    fn a_set_lacks_members_or_may_have_more() {
        let add = |m: &str| Change::Add(Bytes::copy_from_slice(m.as_bytes()));
        let keys = set(&["a", "b"]);
        let exact = judge(&keys, There::Members(bytes(&["b", "a"])), false);
        assert_eq!((changes(&exact), exact.may_have_more), (vec![], false));
        let more = judge(&keys, There::Members(bytes(&["b", "x"])), false);
        assert_eq!((changes(&more), more.may_have_more), (vec![add("a")], true));
        let gone = judge(&keys, There::Nothing, false);
        assert_eq!((changes(&gone), gone.may_have_more), (vec![add("a"), add("b")], false));
        assert!(gone.differences.iter().all(|d| d.wrong == Wrong::Missing));
        let large = judge(&keys, There::Has(vec![true, false]), false);
        assert_eq!((changes(&large), large.may_have_more), (vec![add("b")], true));
        assert_eq!(changes(&judge(&keys, There::Other, true)), [Change::Delete, add("a"), add("b")]);
        // A member that is named twice hides nothing.
        let twice = judge(&set(&["a", "a"]), There::Members(bytes(&["a", "x"])), false);
        assert!(twice.may_have_more);
    }

    #[test]
    fn a_hash_has_these_fields_and_no_others() {
        let field =
            |n: &'static str, v: &'static str| (Bytes::from_static(n.as_bytes()), Bytes::from_static(v.as_bytes()));
        let token = group(Content::Fields(vec![field("permissions", "")]));
        assert_eq!(changes(&judge(&token, There::Fields(bytes(&["permissions", ""])), false)), []);
        let set = Change::SetField { name: Bytes::from_static(b"permissions"), value: Bytes::new() };
        let wrong = judge(&token, There::Fields(bytes(&["permissions", "all", "more", ""])), false);
        assert_eq!(changes(&wrong), [set.clone(), Change::RemoveField(Bytes::from_static(b"more"))]);
        assert_eq!(changes(&judge(&token, There::Nothing, false)), std::slice::from_ref(&set));
        assert_eq!(changes(&judge(&token, There::Other, false)), [Change::Delete, set]);
    }
}
