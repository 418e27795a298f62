//! What becomes of a pod: pure.

use keepsake_core::id::Component;

use super::pod::{Container, Mount, Pod};
use super::settings::{Settings, Sidecar, never};
use super::{CONTAINER, NAMED_BY, OPT_IN, patch};

/// What becomes of it.
#[derive(Debug)]
pub(super) enum Verdict<'a> {
    /// It did not ask for anything.
    NotAsked,
    /// It has its agent.
    Attached,
    /// It asked and gets none, because of this.
    Refused(String),
    /// It gets one.
    Attach(Place<'a>),
}

/// Where an agent goes.
#[derive(Debug)]
pub(super) struct Place<'a> {
    pub(super) component: &'a Component,
    pub(super) sidecar: &'a Sidecar,
    /// The database's container.
    pub(super) beside: &'a Container,
    /// The database's image.
    pub(super) image: &'a str,
    /// Where it has its data.
    pub(super) data: &'a Mount,
}

/// What becomes of this pod.
pub(super) fn judge<'a>(settings: &'a Settings, pod: &'a Pod) -> Verdict<'a> {
    let asked = match asked(settings, pod) {
        Ok(None) => return Verdict::NotAsked,
        Ok(Some(asked)) => asked,
        Err(why) => return Verdict::Refused(why),
    };
    // The API server shows a pod again when somebody else has changed it since.
    if pod.all_containers().any(|c| c.name == CONTAINER) {
        return Verdict::Attached;
    }
    match place(settings, pod, asked) {
        Ok(place) => Verdict::Attach(place),
        Err(why) => Verdict::Refused(why),
    }
}

/// The component for which it asks, if it does.
fn asked<'a>(settings: &Settings, pod: &'a Pod) -> Result<Option<&'a str>, String> {
    match (pod.label(OPT_IN), pod.annotation(OPT_IN)) {
        (Some(label), Some(annotation)) if label != annotation => {
            return Err(format!("its label {OPT_IN} says {label}, its annotation {annotation}: make them one"));
        }
        (Some(asked), _) | (None, Some(asked)) => return Ok(Some(asked)),
        (None, None) => {}
    }
    if !settings.by_labels {
        return Ok(None);
    }
    let named = NAMED_BY.iter().filter_map(|label| pod.label(label));
    Ok(named.into_iter().find(|name| settings.components.keys().any(|c| c.as_str() == *name)))
}

fn place<'a>(settings: &'a Settings, pod: &'a Pod, asked: &str) -> Result<Place<'a>, String> {
    if let Some(why) = never(asked) {
        return Err(format!("{asked}: {why}"));
    }
    let found = settings.components.iter().find(|(component, _)| component.as_str() == asked);
    let Some((component, sidecar)) = found else {
        let known: Vec<_> = settings.components.keys().map(Component::as_str).collect();
        return Err(format!("{asked:?} is no component of the webhook's settings, which have {}", known.join(", ")));
    };
    let name = &sidecar.container;
    let beside = pod.spec.containers.iter().find(|c| c.name == *name);
    let beside = beside.ok_or_else(|| format!("it has no container {name}, whose image would have the tools"))?;
    let image = beside.image.as_deref().filter(|i| !i.is_empty());
    let image = image.ok_or_else(|| format!("its container {name} has no image yet"))?;
    let (volume, mount) = (&sidecar.data.volume, &sidecar.data.mount);
    let data = beside.mount(volume, mount);
    let data = data.ok_or_else(|| format!("its container {name} has no volume {volume} at {mount}"))?;
    if sidecar.data.shared && data.sub_path_expr.is_some() {
        return Err(format!("its container {name} has its data at a place that variables of its own name"));
    }
    let held = pod.volumes().find(|v| v.name == *volume);
    let held = held.ok_or_else(|| format!("it has no volume {volume}"))?;
    if held.ends_with_the_pod() {
        return Err(format!(
            "its data ({volume}) is gone with each pod, and an agent in it would need a new pod: use a Deployment of its own, as agents/zync-database"
        ));
    }
    if pod.spec.host_network == Some(true) {
        return Err("it shares its node's network, where the agent would stand open".to_owned());
    }
    let taken = |c: &&Container| {
        c.ports.iter().flatten().any(|p| patch::PORTS.iter().any(|(_, port)| p.container_port == i32::from(*port)))
    };
    if let Some(other) = pod.all_containers().find(taken) {
        return Err(format!("its container {} has a port that the agent needs", other.name));
    }
    let ours = pod.all_containers().map(|c| c.name.as_str()).chain(pod.volumes().map(|v| v.name.as_str()));
    if let Some(other) = ours.into_iter().find(|name| patch::is_own_name(name)) {
        return Err(format!("{other} in it has a name that the agent needs, and there is no container {CONTAINER}"));
    }
    Ok(Place { component, sidecar, beside, image, data })
}
