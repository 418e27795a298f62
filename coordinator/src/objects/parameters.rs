//! The parameters of `oc new-app` by which an installation from a template was made, found in its Secrets and ConfigMaps: pure.
//!
//! Which parameter is where: the documented procedure of 2.7 (6.6.1) and its template. A parameter file is read by another library of dotenv files in each `oc`;
//! they agree on plain quotes only, so what needs more is not written but named.

use std::collections::BTreeMap;

use super::text::{database, password};

/// In the place of a key: the label `app`.
pub(super) const LABEL_APP: &str = "label:app";

/// How a value is found.
#[derive(Debug, Clone, Copy)]
enum Part {
    Whole,
    Password,
    Database,
}

use Part::{Database, Password, Whole};

/// Parameter, kind, name, key, and what of its value.
const PARAMETERS: [(&str, &str, &str, &str, Part); 33] = [
    ("APP_LABEL", "ConfigMap", "system-environment", LABEL_APP, Whole),
    ("WILDCARD_DOMAIN", "ConfigMap", "system-environment", "THREESCALE_SUPERDOMAIN", Whole),
    ("APICAST_REGISTRY_URL", "ConfigMap", "system-environment", "APICAST_REGISTRY_URL", Whole),
    ("APICAST_MANAGEMENT_API", "ConfigMap", "apicast-environment", "APICAST_MANAGEMENT_API", Whole),
    ("APICAST_OPENSSL_VERIFY", "ConfigMap", "apicast-environment", "OPENSSL_VERIFY", Whole),
    ("APICAST_RESPONSE_CODES", "ConfigMap", "apicast-environment", "APICAST_RESPONSE_CODES", Whole),
    ("TENANT_NAME", "Secret", "system-seed", "TENANT_NAME", Whole),
    ("ADMIN_PASSWORD", "Secret", "system-seed", "ADMIN_PASSWORD", Whole),
    ("ADMIN_USERNAME", "Secret", "system-seed", "ADMIN_USER", Whole),
    ("ADMIN_EMAIL", "Secret", "system-seed", "ADMIN_EMAIL", Whole),
    ("ADMIN_ACCESS_TOKEN", "Secret", "system-seed", "ADMIN_ACCESS_TOKEN", Whole),
    ("MASTER_NAME", "Secret", "system-seed", "MASTER_DOMAIN", Whole),
    ("MASTER_USER", "Secret", "system-seed", "MASTER_USER", Whole),
    ("MASTER_PASSWORD", "Secret", "system-seed", "MASTER_PASSWORD", Whole),
    ("MASTER_ACCESS_TOKEN", "Secret", "system-seed", "MASTER_ACCESS_TOKEN", Whole),
    ("SYSTEM_DATABASE_USER", "Secret", "system-database", "DB_USER", Whole),
    ("SYSTEM_DATABASE_PASSWORD", "Secret", "system-database", "DB_PASSWORD", Whole),
    ("SYSTEM_DATABASE", "Secret", "system-database", "URL", Database),
    ("SYSTEM_DATABASE_ROOT_PASSWORD", "Secret", "system-database", "URL", Password),
    ("SYSTEM_BACKEND_USERNAME", "Secret", "backend-internal-api", "username", Whole),
    ("SYSTEM_BACKEND_PASSWORD", "Secret", "backend-internal-api", "password", Whole),
    ("SYSTEM_BACKEND_SHARED_SECRET", "Secret", "system-events-hook", "PASSWORD", Whole),
    ("SYSTEM_APP_SECRET_KEY_BASE", "Secret", "system-app", "SECRET_KEY_BASE", Whole),
    ("RECAPTCHA_PUBLIC_KEY", "Secret", "system-recaptcha", "PUBLIC_KEY", Whole),
    ("RECAPTCHA_PRIVATE_KEY", "Secret", "system-recaptcha", "PRIVATE_KEY", Whole),
    ("SYSTEM_REDIS_URL", "Secret", "system-redis", "URL", Whole),
    ("SYSTEM_MESSAGE_BUS_REDIS_URL", "Secret", "system-redis", "MESSAGE_BUS_URL", Whole),
    ("SYSTEM_REDIS_NAMESPACE", "Secret", "system-redis", "NAMESPACE", Whole),
    ("SYSTEM_MESSAGE_BUS_REDIS_NAMESPACE", "Secret", "system-redis", "MESSAGE_BUS_NAMESPACE", Whole),
    ("ZYNC_DATABASE_PASSWORD", "Secret", "zync", "ZYNC_DATABASE_PASSWORD", Whole),
    ("ZYNC_SECRET_KEY_BASE", "Secret", "zync", "SECRET_KEY_BASE", Whole),
    ("ZYNC_AUTHENTICATION_TOKEN", "Secret", "zync", "ZYNC_AUTHENTICATION_TOKEN", Whole),
    ("APICAST_ACCESS_TOKEN", "Secret", "system-master-apicast", "ACCESS_TOKEN", Whole),
];

/// The file.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Parameters {
    pub(super) text: String,
    /// Which have a value that is not in it.
    pub(super) by_hand: Vec<&'static str>,
}

/// From values by kind, name and key. What has no value is left to the template, whose default is of the same kind as what was empty.
pub(super) fn of(values: &BTreeMap<(String, String, String), String>) -> Parameters {
    let mut parameters = Parameters::default();
    for (parameter, kind, name, key, part) in PARAMETERS {
        let whole = values.get(&(kind.to_owned(), name.to_owned(), key.to_owned()));
        let value = whole.and_then(|whole| match part {
            Whole => Some(whole.clone()),
            Password => password(whole),
            Database => database(whole),
        });
        let Some(value) = value.filter(|v| !v.is_empty()) else { continue };
        if let Some(quoted) = quoted(&value) {
            parameters.text.push_str(&format!("{parameter}={quoted}\n"));
        } else {
            // What stands in it is a secret; where it stands is not.
            parameters
                .text
                .push_str(&format!("# {parameter}: pass it with -p; it is in {} {name}, {key}\n", kind.to_lowercase()));
            parameters.by_hand.push(parameter);
        }
    }
    parameters
}

/// The value as every version of that library reads it back; none when there is no such form.
fn quoted(value: &str) -> Option<String> {
    // Some cut at a hash that comes after an odd number of the other quotes.
    let is_odd = value.contains(['\n', '\r']) || (value.contains('#') && value.contains('"'));
    if is_odd || value.ends_with('\\') {
        return None;
    }
    if !value.contains('\'') {
        return Some(format!("'{value}'"));
    }
    (!value.contains(['"', '\\', '$', '#'])).then(|| format!("\"{value}\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(entries: &[(&str, &str, &str, &str)]) -> BTreeMap<(String, String, String), String> {
        let owned = |e: &(&str, &str, &str, &str)| ((e.0.to_owned(), e.1.to_owned(), e.2.to_owned()), e.3.to_owned());
        entries.iter().map(owned).collect()
    }

    #[test]
    fn parameters_are_found_where_the_template_put_them() {
        let found = of(&values(&[
            ("ConfigMap", "system-environment", LABEL_APP, "3scale-api-management"),
            ("ConfigMap", "system-environment", "THREESCALE_SUPERDOMAIN", "example.com"),
            ("Secret", "system-seed", "ADMIN_USER", "admin"),
            ("Secret", "system-database", "URL", "mysql2://root:p%40ss@system-mysql/system"),
            ("Secret", "system-recaptcha", "PUBLIC_KEY", ""),
        ]));
        let expected = "APP_LABEL='3scale-api-management'\nWILDCARD_DOMAIN='example.com'\nADMIN_USERNAME='admin'\nSYSTEM_DATABASE='system'\n\
                        SYSTEM_DATABASE_ROOT_PASSWORD='p@ss'\n";
        assert_eq!((found.text.as_str(), found.by_hand), (expected, Vec::new()));
    }

    #[test]
    fn values_are_quoted_so_that_nothing_in_them_means_something() {
        assert_eq!(quoted("a b").as_deref(), Some("'a b'"));
        assert_eq!(quoted("$HOME \\n #1").as_deref(), Some("'$HOME \\n #1'"));
        assert_eq!(quoted("say \"a\" to b").as_deref(), Some("'say \"a\" to b'"));
        assert_eq!(quoted("it's").as_deref(), Some("\"it's\""));
        for odd in ["it's $5", "it's \"that\"", "it's #1", "a\nb", "ends with \\", "\"#\""] {
            assert_eq!(quoted(odd), None, "{odd}");
        }
    }

    #[test]
    fn what_cannot_be_written_is_named_and_not_shown() {
        let found = of(&values(&[("Secret", "system-seed", "ADMIN_PASSWORD", "it's $5")]));
        assert_eq!(found.by_hand, ["ADMIN_PASSWORD"]);
        assert!(
            found.text.starts_with("# ADMIN_PASSWORD: pass it with -p; it is in secret system-seed"),
            "{}",
            found.text
        );
        assert!(!found.text.contains("it's $5"), "{}", found.text);
    }
}
