//! Pods as 3scale's operator makes them, what a webhook answers of them, and what its change makes of them.

use k8s_openapi::api::core::v1::Pod;
use keepsake_coordinator::webhook::{OPT_IN, Settings, answer};
use serde_json::{Value, json};

/// What stands in the settings of the manifests where an administrator writes the image.
pub const NO_IMAGE: &str = "image: ''";
/// The image that the overlays name.
pub const IMAGE: &str = "image: keepsake:0.1.0";

/// The settings that the manifests have, with the image, which an administrator writes there.
pub fn shipped() -> String {
    let bare = bare();
    assert!(bare.contains(NO_IMAGE), "the manifests name an image");
    bare.replace(NO_IMAGE, IMAGE)
}

/// The settings that the manifests have.
pub fn bare() -> String {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the project's root");
    let map =
        std::fs::read_to_string(root.join("manifests/components/webhook/settings.yaml")).expect("read a manifest");
    let (_, text) = map.split_once("  settings.yaml: |\n").expect("the settings");
    text.lines().map(|line| line.strip_prefix("    ").unwrap_or(line)).collect::<Vec<_>>().join("\n")
}

/// The pod of one of 3scale's workloads, as its operator's template and a ReplicaSet make it: labels, containers, volumes.
pub fn pod(workload: &str) -> Value {
    let claim = |name: &str| json!({ "name": name, "persistentVolumeClaim": { "claimName": name } });
    let map = |name: &str| json!({ "name": name, "configMap": { "name": name } });
    let at = |name: &str, path: &str| json!({ "name": name, "mountPath": path });
    let (part, element, containers, volumes) = match workload {
        "system-mysql" => {
            let mounts = [
                at("mysql-storage", "/var/lib/mysql/data"),
                at("mysql-extra-conf", "/etc/my-extra.d"),
                at("mysql-main-conf", "/etc/my-extra"),
            ];
            let volumes = vec![claim("mysql-storage"), map("mysql-extra-conf"), map("mysql-main-conf")];
            (
                "system",
                "mysql",
                vec![container(workload, "registry.example/sclorg/mysql-80-c8s:1", 3306, &mounts)],
                volumes,
            )
        }
        "system-postgresql" => {
            let mounts = [at("postgresql-data", "/var/lib/pgsql/data")];
            let one = container(workload, "registry.example/sclorg/postgresql-10-c8s:1", 5432, &mounts);
            ("system", "postgresql", vec![one], vec![claim("postgresql-data")])
        }
        "backend-redis" | "system-redis" => {
            let storage = format!("{workload}-storage");
            let mounts = [at(&storage, "/var/lib/redis/data"), at("redis-config", "/etc/redis.d/")];
            let one = container(workload, "registry.example/fedora/redis-6:1", 6379, &mounts);
            let part = workload.split('-').next().expect("a part");
            (part, "redis", vec![one], vec![claim(&storage), map("redis-config")])
        }
        "zync-database" => {
            let mounts = [at("zync-database-data", "/var/lib/pgsql/data")];
            let one = container("postgresql", "registry.example/sclorg/postgresql-10-c8s:1", 5432, &mounts);
            ("zync", "database", vec![one], vec![json!({ "name": "zync-database-data", "emptyDir": {} })])
        }
        "system-app" => {
            let mounts =
                [at("system-storage", "/opt/system/public/system"), at("system-config", "/opt/system-extra-configs")];
            let all = ["system-master", "system-provider", "system-developer"];
            let containers = all.map(|name| container(name, "registry.example/3scale/porta:1", 3000, &mounts)).to_vec();
            let config = json!({ "name": "system-config", "configMap": { "name": "system" } });
            ("system", "app", containers, vec![claim("system-storage"), config])
        }
        other => panic!("{other} is not known"),
    };
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "generateName": format!("{workload}-7d9c-"),
            "labels": {
                "app": "3scale-api-management", "deployment": workload, "pod-template-hash": "7d9c",
                "threescale_component": part, "threescale_component_element": element,
            },
        },
        "spec": {
            "serviceAccountName": "amp", "restartPolicy": "Always", "terminationGracePeriodSeconds": 30,
            "containers": containers, "volumes": volumes,
        },
    })
}

fn container(name: &str, image: &str, port: u16, mounts: &[Value]) -> Value {
    json!({
        "name": name, "image": image, "imagePullPolicy": "IfNotPresent",
        "ports": [{ "containerPort": port, "protocol": "TCP" }],
        "livenessProbe": { "tcpSocket": { "port": port }, "initialDelaySeconds": 30, "periodSeconds": 10 },
        "resources": { "requests": { "cpu": "250m", "memory": "512Mi" }, "limits": { "cpu": "1", "memory": "2Gi" } },
        "volumeMounts": mounts,
    })
}

/// The same that asks for an agent by an annotation, as the operator puts those of its custom resource on pods.
pub fn asking(workload: &str) -> Value {
    asking_for(workload, workload)
}

/// The same for another component than it is.
pub fn asking_for(workload: &str, component: &str) -> Value {
    let mut pod = pod(workload);
    pod["metadata"]["annotations"] = json!({ OPT_IN: component });
    pod
}

/// What the API server sends when a pod is made.
pub fn review(pod: &Value) -> Value {
    json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {
            "uid": "705ab4f5-6393-11e8-b7cc-42010a800002", "name": "", "namespace": "3scale", "operation": "CREATE",
            "kind": { "group": "", "version": "v1", "kind": "Pod" },
            "resource": { "group": "", "version": "v1", "resource": "pods" },
            "userInfo": { "username": "system:serviceaccount:kube-system:replicaset-controller" },
            "object": pod, "oldObject": null, "dryRun": false,
            "options": { "kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1" },
        },
    })
}

/// What a webhook with these settings says of a pod.
pub fn answered(settings: &Settings, pod: &Value) -> Value {
    answer(settings, review(pod).to_string().as_bytes()).expect("an answer")["response"].clone()
}

/// What an answer makes of the pod.
///
/// # Panics
/// When the pod is not allowed, or the change is none that can be made.
pub fn applied(response: &Value, pod: &Value) -> Value {
    assert_eq!(response["allowed"], true, "{response}");
    let mut changed = pod.clone();
    let Some(patch) = response["patch"].as_str() else { return changed };
    assert_eq!(response["patchType"], "JSONPatch");
    let patch = data_encoding::BASE64.decode(patch.as_bytes()).expect("base64");
    let operations: Vec<Value> = serde_json::from_slice(&patch).expect("a list of operations");
    for operation in operations {
        assert_eq!(operation["op"], "add", "{operation}");
        let path = operation["path"].as_str().expect("a path");
        let (parent, last) = path.rsplit_once('/').expect("a path from / on");
        let last = last.replace("~1", "/").replace("~0", "~");
        match changed.pointer_mut(parent).unwrap_or_else(|| panic!("there is no {parent}")) {
            Value::Array(list) if last == "-" => list.push(operation["value"].clone()),
            Value::Object(map) => drop(map.insert(last, operation["value"].clone())),
            other => panic!("{path}: {other}"),
        }
    }
    changed
}

/// As a pod, of which nothing is lost: what Kubernetes does not know is.
pub fn typed(pod: &Value) -> Pod {
    let typed: Pod = serde_json::from_value(pod.clone()).expect("a pod");
    let again = serde_json::to_value(&typed).expect("JSON");
    assert_eq!(&again, pod, "it has a field that there is not");
    typed
}

/// The containers of a pod by their names.
pub fn containers(pod: &Value) -> Vec<&str> {
    pod["spec"]["containers"].as_array().into_iter().flatten().filter_map(|c| c["name"].as_str()).collect()
}
