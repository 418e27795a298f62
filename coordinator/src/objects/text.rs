//! Texts inside of Secrets: base64, and the parts of a database's URL.

use data_encoding::BASE64;
use percent_encoding::percent_decode_str;

/// The text, if it is one.
pub(super) fn of_base64(value: &str) -> Option<String> {
    String::from_utf8(BASE64.decode(value.as_bytes()).ok()?).ok()
}

/// The password in a URL, as the database knows it.
pub(super) fn password(url: &str) -> Option<String> {
    let (_, rest) = url.split_once("://")?;
    let (user, _) = rest.split_once('/').map_or(rest, |(authority, _)| authority).rsplit_once('@')?;
    let (_, password) = user.split_once(':')?;
    percent_decode_str(password).decode_utf8().ok().map(Into::into)
}

/// The name of the database in a URL.
pub(super) fn database(url: &str) -> Option<String> {
    let (_, rest) = url.split_once("://")?;
    let (_, path) = rest.split_once('/')?;
    let name = path.split(['?', '#']).next().filter(|n| !n.is_empty())?;
    percent_decode_str(name).decode_utf8().ok().map(Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        let url = "mysql2://root:p%40ss%2Fw:rd@system-mysql:3306/system?encoding=utf8";
        assert_eq!(password(url).as_deref(), Some("p@ss/w:rd"));
        assert_eq!(database(url).as_deref(), Some("system"));
        for other in ["", "system", "mysql2://system-mysql", "mysql2://system-mysql/"] {
            assert_eq!((password(other), database(other)), (None, None), "{other}");
        }
    }
}
