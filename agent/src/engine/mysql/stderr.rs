//! What may be told of the loading client's stderr: MariaDB's prints the failing statement with the rows in it.

/// Errors of the server whose messages name objects, settings or privileges but never a value of a row.
const SAFE: &[u32] = &[
    1005, 1021, 1030, 1031, 1036, 1040, 1041, 1044, 1045, 1046, 1049, 1050, 1051, 1053, 1067, 1071, 1091, 1114, 1115,
    1118, 1142, 1146, 1153, 1180, 1205, 1213, 1215, 1227, 1235, 1253, 1267, 1273, 1286, 1290, 1298, 1304, 1305, 1317,
    1349, 1356, 1359, 1370, 1418, 1419, 1449, 1537, 1603, 1709, 1792, 1819, 1822, 1824, 1836, 3098, 3730,
];

/// What the others mean, for the common ones.
const MEANINGS: &[(u32, &str)] = &[
    (1062, "a key occurs twice"),
    (1064, "a syntax error"),
    (1136, "a row has another number of columns than its table"),
    (1264, "a number is out of range"),
    (1292, "a date or number is not valid"),
    (1366, "a value does not fit its column's type or character set"),
    (1406, "a text is too long"),
    (1452, "a foreign key points nowhere"),
    (4025, "a constraint fails"),
];

/// Keeps number, state and line of an error, and its message if that cannot hold data. Everything else is dropped.
pub(super) fn load(line: &str) -> Option<String> {
    let Some(error) = line.strip_prefix("ERROR ") else {
        // What the client says of its own options comes before any data.
        let own = ["unknown option", "unknown variable", "option '"];
        return own
            .iter()
            .any(|w| line.split_once(": ").is_some_and(|(_, t)| t.starts_with(w)))
            .then(|| line.to_owned());
    };
    let digits = error.bytes().take_while(u8::is_ascii_digit).count();
    let number: u32 = error.get(..digits)?.parse().ok()?;
    let (head, message) = error.split_once(": ").unwrap_or((error, ""));
    // Only what the client writes itself: `1062 (23000) at line 7`.
    let ours = |c: char| c.is_ascii_alphanumeric() || matches!(c, ' ' | '(' | ')');
    let head = if head.len() < 60 && head.chars().all(ours) { head } else { error.get(..digits)? };
    if (2000..3000).contains(&number) || SAFE.contains(&number) {
        return Some(format!("error {head}: {message}"));
    }
    let meaning = MEANINGS.iter().find(|(n, _)| *n == number).map_or("its message may hold data", |(_, m)| m);
    Some(format!("error {head}: {meaning} (the message is not shown, it may hold data)"))
}

#[cfg(test)]
mod tests {
    use super::load;

    #[test]
    fn data_is_dropped_and_objects_are_kept() {
        let told = load("ERROR 1062 (23000) at line 7: Duplicate entry 'secret' for key 'PRIMARY'").unwrap();
        assert!(told.starts_with("error 1062 (23000) at line 7: a key occurs twice"), "{told}");
        assert!(!told.contains("secret"));
        let told = load("ERROR 1273 (HY000) at line 9: Unknown collation: 'utf8mb4_0900_ai_ci'").unwrap();
        assert!(told.contains("utf8mb4_0900_ai_ci"));
        assert!(load("ERROR 2013 (HY000) at line 3: Lost connection").unwrap().contains("Lost connection"));
        assert!(load("mariadb: unknown option '--x'").is_some());
        for dropped in ["--------------", "INSERT INTO `t` VALUES ('secret')", "ERROR secret", "x: (secret)", "ERROR"] {
            assert!(load(dropped).is_none(), "{dropped}");
        }
        assert!(!load("ERROR 1 'secret': b").unwrap().contains("secret"));
        assert!(!load("ERROR 9999 (secret, x): b").unwrap().contains("secret"));
    }
}
