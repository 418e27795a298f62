//! What is added to a pod: JSON Patch (RFC 6902). Pure.
//!
//! The agent is copied from Keepsake's image into a folder by a container that runs first, and runs in the database's own image. It is confined as OpenShift's
//! restricted-v2 wants it; its user is the database's. It has a liveness probe and no readiness probe: readiness is the whole pod's, and an agent whose password
//! is wrong would take the database away from its clients.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde_json::{Value, json};

use super::judge::Place;
use super::pod::Pod;
use super::settings::{Memory, Settings};
use super::{CONTAINER, SIDECAR};

/// The agent's folder.
pub(super) const PROGRAM: &str = "/keepsake";
/// What it may write, beside shared data.
pub(super) const SCRATCH: &str = "/tmp";
/// Its certificate.
pub(super) const TLS: &str = "/etc/keepsake/tls";
/// Where the API server's own admission would put a token; it leaves a folder that is taken.
pub(super) const TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// The variables that are set here.
pub(super) const OWN_VARIABLES: [&str; 8] = [
    "KEEPSAKE_COMPONENT",
    "KEEPSAKE_LISTEN",
    "KEEPSAKE_PATIENT",
    "KEEPSAKE_ADMIN",
    "KEEPSAKE_TLS_CA",
    "KEEPSAKE_TLS_CERT",
    "KEEPSAKE_TLS_KEY",
    "KEEPSAKE_PLAINTEXT",
];
/// Where it listens, in the pod's network.
pub(super) const PORTS: [(&str, u16); 2] = [("keepsake-agent", 9090), ("keepsake-admin", 9091)];

/// The container that copies.
const COPY: &str = "keepsake-copy-agent";
/// Whom to believe of public S3 servers: the image of a database may have no such list.
const AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";
/// Volumes.
const PROGRAM_VOLUME: &str = "keepsake-program";
const SCRATCH_VOLUME: &str = "keepsake-scratch";
const TLS_VOLUME: &str = "keepsake-tls";
const NO_TOKEN_VOLUME: &str = "keepsake-no-token";
/// Of Secrets and claims, with a number.
const SECRET_VOLUME: &str = "keepsake-secret-";
const CLAIM_VOLUME: &str = "keepsake-claim-";

/// 0440: the agent refuses a key that everybody may read.
const MODE: u32 = 0o440;

/// Whether a container or volume of this name would be in the way.
pub(super) fn is_own_name(name: &str) -> bool {
    [COPY, PROGRAM_VOLUME, SCRATCH_VOLUME, TLS_VOLUME, NO_TOKEN_VOLUME].contains(&name)
        || [SECRET_VOLUME, CLAIM_VOLUME].iter().any(|begin| name.starts_with(begin))
}

/// The operations that put the agent into the pod.
pub(super) fn patch(settings: &Settings, pod: &Pod, place: &Place<'_>) -> Value {
    let mut operations = Vec::new();
    let labels = json!({ SIDECAR: place.component });
    operations.push(match pod.metadata.labels {
        Some(_) => add(&format!("/metadata/labels/{}", escaped(SIDECAR)), &json!(place.component)),
        None => add("/metadata/labels", &labels),
    });
    let mut append = |path: &str, is_there: bool, items: Vec<Value>| {
        if is_there {
            operations.extend(items.into_iter().map(|item| add(&format!("{path}/-"), &item)));
        } else {
            operations.push(add(path, &Value::Array(items)));
        }
    };
    let (volumes, mounts) = volumes(settings, place);
    append("/spec/volumes", pod.spec.volumes.is_some(), volumes);
    append("/spec/initContainers", pod.spec.init_containers.is_some(), vec![copy(settings)]);
    append("/spec/containers", true, vec![agent(settings, place, &mounts)]);
    Value::Array(operations)
}

fn add(path: &str, value: &Value) -> Value {
    json!({ "op": "add", "path": path, "value": value })
}

/// A key as part of a path.
fn escaped(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

fn copy(settings: &Settings) -> Value {
    json!({
        "name": COPY,
        "image": settings.image,
        "command": ["cp", "/usr/local/bin/keepsake-agent", AUTHORITIES, format!("{PROGRAM}/")],
        "resources": resources(settings),
        "securityContext": confined(settings),
        "volumeMounts": [mount(PROGRAM_VOLUME, PROGRAM, false), mount(NO_TOKEN_VOLUME, TOKEN, true)],
    })
}

fn agent(settings: &Settings, place: &Place<'_>, mounts: &[Value]) -> Value {
    let sidecar = place.sidecar;
    let maps = settings.given(sidecar).into_iter().flat_map(|g| &g.config_maps);
    let from: Vec<_> = maps.map(|name| json!({ "configMapRef": { "name": name, "optional": true } })).collect();
    let mut variables: BTreeMap<&str, String> = [
        ("KEEPSAKE_COMPONENT", place.component.to_string()),
        ("KEEPSAKE_LISTEN", SocketAddr::new(settings.listen, PORTS[0].1).to_string()),
        ("KEEPSAKE_ADMIN", SocketAddr::new(settings.listen, PORTS[1].1).to_string()),
        // An agent that ended would take its database out of its Service.
        ("KEEPSAKE_PATIENT", "true".to_owned()),
        ("KEEPSAKE_TLS_CA", format!("{TLS}/ca.crt")),
        ("KEEPSAKE_TLS_CERT", format!("{TLS}/tls.crt")),
        ("KEEPSAKE_TLS_KEY", format!("{TLS}/tls.key")),
        ("SSL_CERT_FILE", format!("{PROGRAM}/ca-certificates.crt")),
    ]
    .into();
    // An agent's own go before those of all.
    variables.extend(settings.given(sidecar).into_iter().flat_map(|g| &g.env).map(|(n, v)| (n.as_str(), v.clone())));
    let env: Vec<_> = variables.iter().map(|(name, value)| json!({ "name": name, "value": value })).collect();
    let args: Vec<_> =
        std::iter::once(sidecar.engine.as_str()).chain(sidecar.args.iter().map(String::as_str)).collect();
    let ports: Vec<_> = PORTS.iter().map(|(name, port)| json!({ "name": name, "containerPort": port })).collect();
    let mut agent = json!({
        "name": CONTAINER,
        "image": place.image,
        "command": [format!("{PROGRAM}/keepsake-agent")],
        "args": args,
        "envFrom": from,
        "env": env,
        "ports": ports,
        "livenessProbe": {
            "httpGet": { "path": "/healthz", "port": PORTS[1].0 },
            "periodSeconds": 20,
            "timeoutSeconds": 5,
        },
        "resources": resources(settings),
        "securityContext": confined(settings),
        "volumeMounts": mounts,
    });
    // The image is there already, by this very policy.
    if let (Some(policy), Some(agent)) = (&place.beside.image_pull_policy, agent.as_object_mut()) {
        agent.insert("imagePullPolicy".to_owned(), json!(policy));
    }
    agent
}

/// Its volumes, and where it has them.
fn volumes(settings: &Settings, place: &Place<'_>) -> (Vec<Value>, Vec<Value>) {
    let mut volumes = vec![
        json!({ "name": PROGRAM_VOLUME, "emptyDir": { "sizeLimit": "128Mi" } }),
        json!({ "name": SCRATCH_VOLUME, "emptyDir": {} }),
        json!({ "name": NO_TOKEN_VOLUME, "emptyDir": { "sizeLimit": "1Mi" } }),
        json!({ "name": TLS_VOLUME, "secret": secret(&place.sidecar.tls) }),
    ];
    let mut mounts = vec![
        mount(PROGRAM_VOLUME, PROGRAM, true),
        mount(SCRATCH_VOLUME, SCRATCH, false),
        mount(NO_TOKEN_VOLUME, TOKEN, true),
        mount(TLS_VOLUME, TLS, true),
    ];
    let given = settings.given(place.sidecar);
    for (n, secret) in given.iter().flat_map(|g| &g.secrets).enumerate() {
        let name = format!("{SECRET_VOLUME}{n}");
        let mut source = self::secret(&secret.name);
        if let (false, Some(source)) = (secret.items.is_empty(), source.as_object_mut()) {
            let items: Vec<_> = secret.items.iter().map(|(key, path)| json!({ "key": key, "path": path })).collect();
            source.insert("items".to_owned(), json!(items));
        }
        volumes.push(json!({ "name": name, "secret": source }));
        mounts.push(mount(&name, &secret.mount, true));
    }
    for (n, claim) in given.iter().flat_map(|g| &g.claims).enumerate() {
        let name = format!("{CLAIM_VOLUME}{n}");
        volumes.push(json!({ "name": name, "persistentVolumeClaim": { "claimName": claim.name } }));
        mounts.push(mount(&name, &claim.mount, false));
    }
    if place.sidecar.data.shared {
        let mut data = mount(&place.data.name, &place.sidecar.data.mount, false);
        if let (Some(part), Some(data)) = (&place.data.sub_path, data.as_object_mut()) {
            data.insert("subPath".to_owned(), json!(part));
        }
        mounts.push(data);
    }
    (volumes, mounts)
}

/// A Secret that is missing keeps no database waiting: the agent waits for it.
fn secret(name: &str) -> Value {
    json!({ "secretName": name, "defaultMode": MODE, "optional": true })
}

fn mount(name: &str, path: &str, read_only: bool) -> Value {
    if read_only {
        json!({ "name": name, "mountPath": path, "readOnly": true })
    } else {
        json!({ "name": name, "mountPath": path })
    }
}

fn resources(settings: &Settings) -> Value {
    let Memory { request, limit } = settings.memory;
    let mut limits = json!({ "memory": format!("{limit}Mi") });
    if let (Some(cpu), Some(limits)) = (&settings.cpu_limit, limits.as_object_mut()) {
        limits.insert("cpu".to_owned(), json!(cpu));
    }
    json!({ "requests": { "cpu": "20m", "memory": format!("{request}Mi") }, "limits": limits })
}

/// As restricted-v2 wants every container. No user is named: it is the database's, or the namespace's to give.
fn confined(settings: &Settings) -> Value {
    let mut context = json!({
        "allowPrivilegeEscalation": false,
        "readOnlyRootFilesystem": true,
        "capabilities": { "drop": ["ALL"] },
    });
    if let (true, Some(context)) = (settings.seccomp, context.as_object_mut()) {
        context.insert("seccompProfile".to_owned(), json!({ "type": "RuntimeDefault" }));
    }
    context
}
