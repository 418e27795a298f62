//! The levels at which a service makes alerts, as System keeps them: a map of lists of numbers, in YAML that Rails wrote.
//!
//! Read by a reader of our own, which knows only the few shapes that such a map has: what it does not know is an error and never fewer levels.

use std::collections::BTreeSet;

use crate::error::{Error, Kind, Result};

/// The levels that Backend knows, percent.
const BINS: [u16; 9] = [0, 50, 80, 90, 100, 120, 150, 200, 300];

/// All levels that are named in any of the lists; those that Backend does not know are left out.
///
/// # Errors
/// `Unsupported` for a shape that is not known.
pub fn alert_levels(settings: &str) -> Result<BTreeSet<u16>> {
    let mut levels = BTreeSet::new();
    for line in settings.lines().map(str::trim).filter(|line| !line.is_empty()) {
        if let Some(head) = line.strip_prefix("---") {
            // The name of the class that it was, or an empty map.
            let head = head.trim();
            if !(head.is_empty() || head == "{}" || head.starts_with("!ruby/")) {
                return Err(unknown());
            }
            continue;
        }
        if let Some(item) = line.strip_prefix("- ") {
            take(item, &mut levels)?;
            continue;
        }
        let (name, list) = line.strip_prefix(':').unwrap_or(line).split_once(':').ok_or_else(unknown)?;
        if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
            return Err(unknown());
        }
        let list = list.trim();
        if list.is_empty() {
            continue;
        }
        let items = list.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).ok_or_else(unknown)?;
        for item in items.split(',').map(str::trim).filter(|item| !item.is_empty()) {
            take(item, &mut levels)?;
        }
    }
    Ok(levels)
}

fn take(item: &str, levels: &mut BTreeSet<u16>) -> Result<()> {
    let number = item.trim().trim_matches(['\'', '"']);
    let number: u16 = number.parse().map_err(|_| unknown())?;
    if BINS.contains(&number) {
        levels.insert(number);
    }
    Ok(())
}

fn unknown() -> Error {
    Error::new(
        Kind::Unsupported,
        "the notification settings of a service have a shape that is not known: leave alert levels alone (--alert-levels left-alone)",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_list_counts() {
        let all = |text: &str| alert_levels(text).unwrap().into_iter().collect::<Vec<_>>();
        assert_eq!(
            all("---\n:web_buyer:\n- 50\n- 100\n:email_provider:\n- 100\n- 300\n:email_buyer: []\n"),
            [50, 100, 300]
        );
        assert_eq!(
            all("--- !ruby/hash:ActiveSupport::HashWithIndifferentAccess\nweb_buyer:\n  - '80'\n  - 0\n"),
            [0, 80]
        );
        assert_eq!(all("---\n:web_buyer: [50, 90]\n"), [50, 90]);
        assert_eq!(all("---\n:web_buyer:\n- 50\n- 70\n"), [50], "a level that Backend does not know");
        assert_eq!(all("--- {}\n"), [0; 0]);
        assert_eq!(all(""), [0; 0]);
    }

    #[test]
    fn what_is_not_understood_is_no_empty_list() {
        for text in [
            "50",
            "---\n- x\n",
            "--- 50\n",
            "---\n:web_buyer: &1\n- 50\n",
            "---\n:web_buyer: 50\n",
            "---\n- 5.5\n",
            "---\n- ''\n",
            "---\n? a\n: b\n",
        ] {
            assert_eq!(alert_levels(text).unwrap_err().kind(), Kind::Unsupported, "{text:?}");
        }
    }
}
