//! What OpenShift's restricted-v2 asks of every pod, and what we ask besides: limits, pinned images, volumes that are there.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Container, PodSpec, Volume};

use super::objects::{Objects, Pod};

/// Bytes that an agent with its tools may take.
const AGENT: u64 = 64 << 20;
/// The coordinator.
const COORDINATOR: u64 = 128 << 20;

/// What is wrong. `numbered`: for clusters that give a pod no user of its own.
pub(super) fn problems(objects: &Objects, numbered: bool, seccomp: bool) -> Vec<String> {
    let mut wrong = Vec::new();
    for pod in objects.pods() {
        let mut say = |what: String| wrong.push(format!("{}: {what}", pod.owner));
        user(pod.spec, numbered, seccomp, &mut say);
        volumes(&pod, objects, &mut say);
        let names: BTreeSet<_> = containers(pod.spec).map(|c| &c.name).collect();
        if names.len() != containers(pod.spec).count() {
            say("has two containers of one name".to_owned());
        }
        for container in containers(pod.spec) {
            let mut say = |what: String| say(format!("container {}: {what}", container.name));
            confined(container, &mut say);
            limits(container, &mut say);
            if let Some(why) = unpinned(container.image.as_deref().unwrap_or_default()) {
                say(format!("image {:?} {why}", container.image));
            }
        }
    }
    // The pod itself, and the image of the agent, are the database's.
    for sidecar in &objects.sidecars {
        for container in sidecar.added() {
            let mut say = |what: String| {
                wrong.push(format!("sidecar {}: container {}: {what}", sidecar.component, container.name))
            };
            confined(container, &mut say);
            limits(container, &mut say);
        }
    }
    wrong
}

/// All of them, the first ones too.
pub(super) fn containers(pod: &PodSpec) -> impl Iterator<Item = &Container> {
    pod.init_containers.iter().flatten().chain(&pod.containers)
}

fn user(pod: &PodSpec, numbered: bool, seccomp: bool, say: &mut impl FnMut(String)) {
    let Some(context) = &pod.security_context else { return say("has no securityContext".to_owned()) };
    if context.run_as_non_root != Some(true) {
        say("may run as root: runAsNonRoot".to_owned());
    }
    let numbers = [context.run_as_user, context.run_as_group, context.fs_group];
    if numbered && numbers.iter().any(|n| n.is_none_or(|n| n == 0)) {
        say("names no user, group and group of volumes".to_owned());
    }
    if !numbered && (numbers.iter().any(Option::is_some) || context.supplemental_groups.is_some()) {
        say("names a user or a group: they are the namespace's to give".to_owned());
    }
    let profile = context.seccomp_profile.as_ref().map(|p| p.type_.as_str());
    if profile != seccomp.then_some("RuntimeDefault") {
        say(format!("has the seccomp profile {profile:?}"));
    }
    if [pod.host_network, pod.host_pid, pod.host_ipc].contains(&Some(true)) {
        say("shares something of the host".to_owned());
    }
    if pod.automount_service_account_token != Some(false) {
        say("mounts a token that it has no use for".to_owned());
    }
    if pod.enable_service_links != Some(false) {
        say("gets variables of services, which may be named as our flags are: enableServiceLinks".to_owned());
    }
}

fn confined(container: &Container, say: &mut impl FnMut(String)) {
    let Some(context) = &container.security_context else { return say("has no securityContext".to_owned()) };
    if context.allow_privilege_escalation != Some(false) || context.privileged == Some(true) {
        say("may become more than it is".to_owned());
    }
    if context.read_only_root_filesystem != Some(true) {
        say("may write its root".to_owned());
    }
    let dropped = context.capabilities.as_ref().and_then(|c| c.drop.as_deref()).unwrap_or_default();
    let added = context.capabilities.as_ref().is_some_and(|c| c.add.is_some());
    if dropped != ["ALL"] || added {
        say("keeps capabilities".to_owned());
    }
    if context.run_as_user.is_some() || context.run_as_non_root == Some(false) {
        say("names a user".to_owned());
    }
    if container.ports.iter().flatten().any(|p| p.host_port.is_some()) {
        say("takes a port of the host".to_owned());
    }
}

fn limits(container: &Container, say: &mut impl FnMut(String)) {
    let limit = container.resources.as_ref().and_then(|r| r.limits.as_ref()?.get("memory")).map(|q| q.0.as_str());
    let most = if container.command.as_deref() == Some(&["keepsake".to_owned()]) { COORDINATOR } else { AGENT };
    match limit.and_then(mebibytes) {
        Some(bytes) if bytes == most => {}
        other => say(format!("may take {other:?} bytes of memory, not {most}")),
    }
    if container.resources.as_ref().is_none_or(|r| r.requests.is_none()) {
        say("asks for no resources".to_owned());
    }
}

fn mebibytes(quantity: &str) -> Option<u64> {
    Some(quantity.strip_suffix("Mi")?.parse::<u64>().ok()? << 20)
}

/// Why an image may be another one tomorrow.
fn unpinned(image: &str) -> Option<&'static str> {
    if let Some((_, digest)) = image.split_once("@sha256:") {
        let whole = digest.len() == 64 && digest.bytes().all(|b| b.is_ascii_hexdigit());
        return (!whole).then_some("has no whole digest");
    }
    let (name, tag) = image.rsplit_once(':').unwrap_or((image, ""));
    let version = tag.split('.').filter(|part| part.parse::<u32>().is_ok()).count() == 3;
    if !version {
        return Some("is pinned neither by a digest nor by a whole version");
    }
    let ours = name.rsplit('/').next() == Some("keepsake");
    (ours && tag != env!("CARGO_PKG_VERSION")).then_some("is not of this version of Keepsake")
}

fn volumes(pod: &Pod<'_>, objects: &Objects, say: &mut impl FnMut(String)) {
    let all = pod.spec.volumes.as_deref().unwrap_or_default();
    let there: BTreeSet<&str> = all.iter().map(|v| v.name.as_str()).collect();
    let mounted: BTreeSet<&str> =
        containers(pod.spec).flat_map(|c| c.volume_mounts.iter().flatten()).map(|m| m.name.as_str()).collect();
    if there != mounted || there.len() != all.len() {
        say(format!("has the volumes {there:?} and mounts {mounted:?}"));
    }
    for volume in all {
        if let Some(why) = unsound(volume, objects) {
            say(format!("volume {}: {why}", volume.name));
        }
    }
}

fn unsound(volume: &Volume, objects: &Objects) -> Option<&'static str> {
    if let Some(secret) = &volume.secret {
        let mode = secret.default_mode.unwrap_or(0o644);
        return (mode & 0o007 != 0)
            .then_some("everybody may read the secret, and the agent refuses such a key: defaultMode");
    }
    if let Some(map) = &volume.config_map {
        // Made by the administrator: what `init` has pinned.
        let known = map.name == "keepsake-trust" || objects.config_maps.contains_key(&map.name);
        return (!known).then_some("there is no such ConfigMap");
    }
    if let Some(projected) = &volume.projected {
        // A token of its own, and nothing that could be had by a plain volume.
        let sources = projected.sources.iter().flatten();
        let is_token =
            sources.clone().any(|s| s.service_account_token.is_some()) && sources.clone().all(|s| s.secret.is_none());
        let is_open = projected.default_mode.unwrap_or(0o644) & 0o007 != 0;
        return (!is_token || is_open).then_some("is projected, and not a token that others cannot read");
    }
    (volume.empty_dir.is_none() && volume.persistent_volume_claim.is_none())
        .then_some("is of a kind that restricted-v2 does not admit")
}
