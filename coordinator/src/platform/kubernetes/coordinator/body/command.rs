//! Whether a template's container does what its arguments say, and nothing else: pure.
//!
//! A container runs `command` and then `args` as one command line, so arguments that take the place of the template's come to Keepsake only if that is what
//! stands last in `command`. And whatever has an environment variable of Keepsake's switches a flag on.

use keepsake_core::error::{Error, Kind, Result};
use serde_json::{Map, Value};

/// What the program is called.
const PROGRAM: &str = "keepsake";
/// What the variables of its flags begin with.
const OURS: &str = "KEEPSAKE_";
/// Variables of the coordinator that say where it and its repository are, and what it prints. All others of that name are flags of the command, which the
/// command line says.
const KEPT: [&str; 5] =
    ["KEEPSAKE_TOPOLOGY", "KEEPSAKE_TRUST", "KEEPSAKE_LOG", "KEEPSAKE_OUTPUT", "KEEPSAKE_REPOSITORY"];
/// What those begin with that say how the repository is reached.
const KEPT_OF_S3: &str = "KEEPSAKE_S3_";
/// Programs that take a text, or the name of a script, for what is to be done.
const SHELLS: [&str; 8] = ["sh", "bash", "dash", "ash", "zsh", "ksh", "mksh", "fish"];

/// Whether a variable of this name says what is to be done.
pub(super) fn is_a_flag(variable: &str) -> bool {
    variable.starts_with(OURS) && !KEPT.contains(&variable) && !variable.starts_with(KEPT_OF_S3)
}

/// Whether what is handed over as arguments is what will be done.
///
/// # Errors
/// `Unsupported`, with the field and what to do.
pub(super) fn ensure_hands_over(container: &Map<String, Value>, cron_job: &str) -> Result<()> {
    let refused = |field: &str, why: String| {
        let text = format!(
            "field `{field}` of the coordinator's container in cronjob/{cron_job} {why}; or name another CronJob with --cronjob. Nothing was done"
        );
        Err(Error::new(Kind::Unsupported, text))
    };
    if let Err(why) = hands_over(&list(container, "command")) {
        return refused("command", why);
    }
    let brings_flags = |source: &&Value| may_begin_as_ours(word(source.get("prefix").unwrap_or(&Value::Null)));
    if let Some(source) = list(container, "envFrom").iter().find(brings_flags) {
        let what = ["secretRef", "configMapRef"].iter().find_map(|sort| {
            let name = source.get(sort)?.get("name")?.as_str()?;
            Some(format!("{} {name}", sort.trim_end_matches("Ref")))
        });
        let why = format!(
            "takes all variables of {}: one named {OURS}… would switch on a flag that nobody asked for here. Name the variables that are needed in `env`, each \
             with `valueFrom`, or give that entry a `prefix` with which no such name begins",
            what.as_deref().unwrap_or("a Secret or ConfigMap")
        );
        return refused("envFrom", why);
    }
    Ok(())
}

/// Nothing of it, which is the image's own entrypoint; the program; or a wrapper that is given the program as its last word and passes on what follows.
fn hands_over(command: &[Value]) -> Result<(), String> {
    let words: Vec<&str> = command.iter().map(word).collect();
    let Some((last, before)) = words.split_last() else { return Ok(()) };
    let remedy = "Write `command: [keepsake]`, and what else is needed into the image or into `args`";
    if let Some(shell) = words.iter().find(|w| SHELLS.contains(&base(w))) {
        return Err(format!("has {shell}, a shell, which does not pass arguments on to keepsake. {remedy}"));
    }
    if base(last) != PROGRAM {
        return Err(format!(
            "ends with {last:?} and not with keepsake, so arguments would go to something else. {remedy}"
        ));
    }
    if before.iter().any(|w| base(w) == PROGRAM) {
        return Err(format!(
            "has arguments of keepsake in it, which would be said beside those of this command. {remedy}"
        ));
    }
    let sets = |w: &&&str| w.split_once('=').is_some_and(|(name, _)| is_a_flag(name));
    if let Some(variable) = before.iter().find(sets) {
        let name = variable.split('=').next().unwrap_or_default();
        return Err(format!("sets {name}, which is a flag of keepsake that nobody asked for here. {remedy}"));
    }
    Ok(())
}

/// Whether the name of a variable with this prefix may be one of Keepsake's: what follows may be anything.
fn may_begin_as_ours(prefix: &str) -> bool {
    prefix.starts_with(OURS) || OURS.starts_with(prefix)
}

/// The last element of a path.
fn base(word: &str) -> &str {
    word.rsplit('/').next().unwrap_or(word)
}

fn word(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn list(container: &Map<String, Value>, field: &str) -> Vec<Value> {
    container.get(field).and_then(Value::as_array).cloned().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn judged(container: &Value) -> Result<(), String> {
        let judged = ensure_hands_over(container.as_object().unwrap(), "mine");
        judged.map_err(|e| {
            assert_eq!(e.kind(), Kind::Unsupported);
            e.chain()
        })
    }

    #[test]
    fn commands_that_pass_arguments_on_are_taken() {
        for command in [
            json!(null),
            json!([]),
            json!(["keepsake"]),
            json!(["/usr/local/bin/keepsake"]),
            json!(["tini", "--", "keepsake"]),
            json!(["/usr/bin/env", "TZ=UTC", "KEEPSAKE_LOG=info", "/keepsake"]),
            json!(["nice", "-n", "5", "./keepsake"]),
        ] {
            assert_eq!(judged(&json!({ "command": command })), Ok(()), "{command}");
        }
    }

    #[test]
    fn commands_that_do_something_else_are_refused() {
        for (command, says) in [
            (json!(["sh", "-c", "keepsake backup --all"]), "a shell"),
            (json!(["/bin/bash", "-c", "keepsake"]), "a shell"),
            (json!(["tini", "--", "sh", "keepsake"]), "a shell"),
            (json!(["/bin/sh"]), "a shell"),
            (json!(["keepsake", "backup"]), "ends with \"backup\""),
            (json!(["keepsake-wrapper"]), "ends with \"keepsake-wrapper\""),
            (json!(["keepsake/"]), "not with keepsake"),
            (json!([7]), "not with keepsake"),
            (json!(["keepsake", "--trust", "keepsake"]), "arguments of keepsake"),
            (json!(["env", "KEEPSAKE_NO_SAFETY=true", "keepsake"]), "sets KEEPSAKE_NO_SAFETY"),
        ] {
            let told = judged(&json!({ "command": command })).unwrap_err();
            for word in [says, "`command`", "cronjob/mine", "command: [keepsake]", "--cronjob"] {
                assert!(told.contains(word), "{command}: {word}: {told}");
            }
        }
    }

    #[test]
    fn variables_that_nobody_has_seen_are_refused() {
        let of = |source: Value| judged(&json!({ "command": ["keepsake"], "envFrom": [source] }));
        assert_eq!(of(json!({ "prefix": "AWS_", "secretRef": { "name": "s3" } })), Ok(()));
        assert_eq!(of(json!({ "prefix": "KEEPER_", "secretRef": { "name": "s3" } })), Ok(()));
        assert_eq!(judged(&json!({ "envFrom": [] })), Ok(()));
        for prefix in ["", "K", "KEEP", "KEEPSAKE_", "KEEPSAKE_NO_"] {
            let told = of(json!({ "prefix": prefix, "secretRef": { "name": "more" } })).unwrap_err();
            for word in ["`envFrom`", "secret more", "valueFrom", "cronjob/mine"] {
                assert!(told.contains(word), "{prefix}: {word}: {told}");
            }
        }
        let told = of(json!({ "configMapRef": { "name": "more" } })).unwrap_err();
        assert!(told.contains("configMap more"), "{told}");
        // Any of several.
        let two = json!([{ "prefix": "AWS_", "secretRef": { "name": "a" } }, { "secretRef": { "name": "b" } }]);
        assert!(judged(&json!({ "envFrom": two })).unwrap_err().contains("secret b"));
    }
}
