//! What containers are started with: every flag and every variable is one that the binaries have, and its value is one that they take.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::{ArgAction, Command, CommandFactory, FromArgMatches};
use k8s_openapi::api::core::v1::Container;
use keepsake_agent::engine::registry::ENGINES;
use keepsake_coordinator::topology::Told;

use super::objects::Objects;
use super::restricted::containers;

/// What is wrong.
pub(super) fn problems(objects: &Objects, containerfile: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    let pods = objects.pods();
    let own = pods.iter().flat_map(|pod| containers(pod.spec).map(|c| (pod.owner.clone(), c)));
    let beside = objects.sidecars.iter().flat_map(|s| s.added().map(|c| (format!("sidecar {}", s.component), c)));
    for (owner, container) in own.chain(beside) {
        let told = environment(container, objects).and_then(|environment| {
            let command = container.command.as_deref().unwrap_or_default();
            match command.first().and_then(|program| program.rsplit('/').next()) {
                Some("keepsake-agent") => agent(container, &environment),
                Some("keepsake") => {
                    let command = keepsake_coordinator::cli::Args::command();
                    parsed(command, container, &environment).map(drop)
                }
                Some("cp") => copies(command, containerfile),
                other => Err(format!("runs {other:?}, which is none of our programs")),
            }?;
            mounted(container, &environment)
        });
        wrong.extend(told.err().map(|why| format!("{owner}: container {}: {why}", container.name)));
    }
    wrong
}

/// Its variables, of ConfigMaps first.
pub(super) fn environment(container: &Container, objects: &Objects) -> Result<BTreeMap<String, String>, String> {
    let mut all = BTreeMap::new();
    for source in container.env_from.iter().flatten() {
        let name = source
            .config_map_ref
            .as_ref()
            .map(|m| m.name.as_str())
            .ok_or("variables of something else than a ConfigMap")?;
        all.extend(objects.config_maps.get(name).ok_or_else(|| format!("there is no ConfigMap {name}"))?.clone());
    }
    for variable in container.env.iter().flatten() {
        let from = variable.value_from.as_ref();
        if let Some(key) = from.and_then(|from| from.config_map_key_ref.as_ref()) {
            let map =
                objects.config_maps.get(&key.name).ok_or_else(|| format!("there is no ConfigMap {}", key.name))?;
            match (map.get(&key.key), key.optional) {
                (Some(value), _) => drop(all.insert(variable.name.clone(), value.clone())),
                (None, Some(true)) => {}
                (None, _) => return Err(format!("ConfigMap {} has no {}", key.name, key.key)),
            }
            continue;
        }
        let field = from.and_then(|from| from.field_ref.as_ref());
        let value = match (&variable.value, field.map(|f| f.field_path.as_str())) {
            (Some(value), None) => value.clone(),
            (None, Some("status.podIP")) => "192.0.2.1".to_owned(),
            _ => return Err(format!("{} comes from something else than a value or the pod's address", variable.name)),
        };
        all.insert(variable.name.clone(), value);
    }
    Ok(all)
}

/// What a coordinator is told of the repository by its flags and variables.
pub(super) fn repository(container: &Container, objects: &Objects) -> Result<Told, String> {
    let environment = environment(container, objects)?;
    let matches = parsed(keepsake_coordinator::cli::Args::command(), container, &environment)?;
    let args = keepsake_coordinator::cli::Args::from_arg_matches(&matches).map_err(|e| e.to_string())?;
    Ok(args.repository.told())
}

fn agent(container: &Container, environment: &BTreeMap<String, String>) -> Result<(), String> {
    let matches = parsed(keepsake_agent::config::command(), container, environment)?;
    let (engine, own) = matches.subcommand().ok_or("names no engine")?;
    let registered = ENGINES.iter().find(|e| e.name == engine).ok_or("there is no such engine")?;
    match (registered.open)(own, PathBuf::from("/tmp/keepsake-agent")) {
        Ok(_) => Ok(()),
        // Files that are mounted in the cluster alone.
        Err(e) if e.chain().contains("/etc/keepsake/") => Ok(()),
        Err(e) => Err(e.chain()),
    }
}

/// Parses arguments and variables as the program does, by its own definition of them.
fn parsed(
    mut program: Command,
    container: &Container,
    environment: &BTreeMap<String, String>,
) -> Result<clap::ArgMatches, String> {
    program.build();
    let given = container.args.clone().unwrap_or_default();
    let name = given.first().ok_or("has no arguments")?;
    let defined = program.find_subcommand(name).ok_or_else(|| format!("there is no command {name}"))?;
    let mut line = vec![program.get_name().to_owned()];
    line.extend(given.iter().cloned());
    for (variable, value) in environment.iter().filter(|(name, _)| !foreign(name)) {
        let flag = defined
            .get_arguments()
            .find(|a| a.get_env().is_some_and(|env| env == variable.as_str()))
            .ok_or_else(|| format!("{name} has no variable {variable}"))?;
        let long = flag.get_long().ok_or_else(|| format!("{variable} is no flag"))?;
        match (flag.get_action(), value.as_str()) {
            (ArgAction::SetTrue, "true") => line.push(format!("--{long}")),
            (ArgAction::SetTrue, other) => return Err(format!("{variable} is {other:?}, not true")),
            _ => line.push(format!("--{long}={value}")),
        }
    }
    program.try_get_matches_from(line).map_err(|e| e.to_string())
}

/// No flags of ours.
fn foreign(variable: &str) -> bool {
    ["TZ", "SSL_CERT_FILE"].contains(&variable)
}

/// The agent, and whom it believes, are copied from where the image has them.
fn copies(command: &[String], containerfile: &str) -> Result<(), String> {
    let [_, program, authorities, to] = command else { return Err(format!("{command:?} copies not two files")) };
    let (folder, name) = program.rsplit_once('/').ok_or("copies from nowhere")?;
    let has =
        containerfile.lines().any(|l| l.starts_with("COPY") && l.contains(name) && l.ends_with(&format!(" {folder}/")));
    if !has || !to.ends_with('/') {
        return Err(format!("copies {program}, and the image has no such file, or not into a folder: {to}"));
    }
    let last = containerfile.rsplit("\nFROM ").next().unwrap_or_default();
    if authorities != "/etc/ssl/certs/ca-certificates.crt" || !last.contains("ca-certificates") {
        return Err(format!("copies {authorities}, which the image's package of certificates does not have"));
    }
    Ok(())
}

/// Every path that it is told is on a volume.
fn mounted(container: &Container, environment: &BTreeMap<String, String>) -> Result<(), String> {
    let mounts: Vec<&str> = container.volume_mounts.iter().flatten().map(|m| m.mount_path.as_str()).collect();
    let programs = container.command.iter().flatten().filter(|c| {
        // What the image itself has.
        c.starts_with('/') && !c.starts_with("/usr/") && !c.starts_with("/etc/ssl/certs/")
    });
    let paths = environment.values().map(|v| v.strip_prefix("file://").unwrap_or(v)).filter(|v| v.starts_with('/'));
    for path in paths.chain(programs.map(String::as_str)) {
        if !mounts.iter().any(|mount| path == *mount || path.starts_with(&format!("{mount}/"))) {
            return Err(format!("{path} is on none of its volumes {mounts:?}"));
        }
    }
    Ok(())
}
