//! A 3scale in pods: its four databases for real, system-storage as a volume, and workloads that only stand for its applications.

use std::path::PathBuf;

use data_encoding::BASE64;
use kube::Client;
use serde_json::{Value, json};

use super::images::{APPLICATIONS, STORES, USER};
use super::{Node, Tunnel};
use crate::child::{run, tool_command};
use crate::cluster::skeleton::{Form, OPERATOR, workload};
use crate::cluster::{Raw, objects, openshift};
use crate::house::Installation;
use crate::servers::mysql::{self, MysqlServer};
use crate::servers::postgres::{self, PostgresServer};
use crate::servers::redis::RedisServer;
use crate::webhook;

/// Where the operator is.
pub const OPERATORS: &str = "operators";
/// The stores with pods of their own, each with its port.
const STORES_IN_PODS: [(&str, u16); 4] =
    [("system-mysql", 3306), ("backend-redis", 6379), ("system-redis", 6379), ("zync-database", 5432)];
/// Applications, each with the replicas that it has.
const WORKLOADS: [(&str, u32); 8] = [
    ("zync-que", 1),
    ("zync", 2),
    ("apicast-production", 2),
    ("system-sidekiq", 1),
    ("backend-cron", 0),
    ("system-app", 2),
    ("backend-listener", 1),
    ("backend-worker", 1),
];
const CLAIMS: [&str; 4] = ["mysql-storage", "backend-redis-storage", "system-redis-storage", "system-storage"];

/// As the image of 3scale's database: what is not there is made, then the server runs.
const MYSQL: &str = r"
set -e
data=/var/lib/mysql/data
[ -d $data/mysql ] || mariadb-install-db --no-defaults --datadir=$data --auth-root-authentication-method=normal --skip-test-db
exec mariadbd --no-defaults --datadir=$data --tmpdir=/tmp --socket=/tmp/mysql.sock --pid-file=/tmp/mysql.pid --port=3306 \
  --bind-address=0.0.0.0 --skip-name-resolve --init-file=/etc/my-extra.d/init.sql --max-allowed-packet=64M --default-time-zone=+00:00 \
  --character-set-server=utf8mb4 --innodb-buffer-pool-size=32M --performance-schema=OFF
";
const POSTGRES: &str = r#"
set -e
export PATH=$PATH:/usr/lib/postgresql/15/bin
data=/var/lib/pgsql/data/userdata
if [ ! -e $data/PG_VERSION ]; then
  initdb --username=postgres --auth=scram-sha-256 --encoding=UTF8 --locale=C.UTF-8 --no-sync --pwfile=/etc/password/password -D $data
  echo "host all all 0.0.0.0/0 scram-sha-256" >> $data/pg_hba.conf
  printf "CREATE ROLE zync LOGIN PASSWORD '%s';\nCREATE DATABASE zync_production OWNER zync;\n" "$(cat /etc/password/password)" > /tmp/init.sql
  postgres --single -D $data postgres < /tmp/init.sql
fi
exec postgres -D $data -h 0.0.0.0 -k /tmp -c max_connections=40 -c shared_buffers=16MB
"#;
/// As 3scale's from 2.15 on: nobody makes it a replica.
const REDIS: &str = "
dir /var/lib/redis/data
appendonly yes
protected-mode no
enable-debug-command yes
repl-diskless-sync-delay 0
";
const NO_REPLICAS: &str = "rename-command REPLICAOF \"\"\nrename-command SLAVEOF \"\"\n";

/// One in a namespace of its own.
#[derive(Debug)]
pub struct InPods {
    /// Its namespace.
    pub namespace: String,
    /// Whether Redis may be made a replica, as before 2.15.
    pub may_replicate: bool,
    /// Whether the pods of its databases ask for agents.
    pub asks: bool,
    lines: Vec<Tunnel>,
}

impl InPods {
    /// Makes the kinds that 3scale defines, and the operator: once in a cluster.
    pub async fn prepare(node: &Node) {
        let client = node.client().await;
        openshift::define_apimanager(&client).await;
        openshift::define_capabilities(&client).await;
        node.must(&["create", "namespace", OPERATORS]);
        node.apply(OPERATORS, &[running(workload(Form::Deployments, OPERATOR, 1, None))]);
    }

    /// The installation of this namespace.
    pub fn of(namespace: &str) -> Self {
        Self { namespace: namespace.to_owned(), may_replicate: true, asks: false, lines: Vec::new() }
    }

    /// Makes its objects and everything that runs in it, as its administrator and its operator would.
    pub async fn build(&self, node: &Node) {
        self.build_with(node, &every_name()).await;
    }

    /// As [`InPods::build`], with these applications alone.
    pub async fn build_with(&self, node: &Node, applications: &[&str]) {
        let client = node.client().await;
        objects::build(&client, &self.namespace).await;
        let password = BASE64.encode(postgres::PASSWORD.as_bytes());
        let zync = format!("{}/zync", objects::path(&self.namespace, "secret"));
        client.merge(&zync, json!({ "data": { "ZYNC_DATABASE_PASSWORD": password } })).await;
        self.build_stores(node, &client).await;
        self.build_some(node, applications);
    }

    /// Makes the namespace, with what every namespace has.
    pub fn make_namespace(&self, node: &Node) {
        node.must(&["create", "namespace", &self.namespace]);
        node.must(&["-n", &self.namespace, "create", "serviceaccount", "amp"]);
    }

    /// Where a volume claim's files are, on this machine.
    pub fn volume(&self, node: &Node, claim: &str) -> PathBuf {
        node.scratch.path().join("volumes").join(&self.namespace).join(claim)
    }

    /// Makes the databases.
    pub async fn build_stores(&self, node: &Node, client: &Client) {
        for claim in CLAIMS {
            self.make_volume(node, claim);
        }
        let n = &self.namespace;
        let redis = if self.may_replicate { REDIS.to_owned() } else { format!("{REDIS}{NO_REPLICAS}") };
        node.apply(
            n,
            &[
                json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "mysql-extra-conf" }, "data": { "init.sql": init_sql() } }),
                json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "redis-config" }, "data": { "redis.conf": redis } }),
            ],
        );
        if client.at(&format!("{}/mysql-main-conf", objects::path(n, "configmap"))).await.is_none() {
            let map = json!({ "metadata": { "name": "mysql-main-conf" }, "data": { "key": "of mysql-main-conf" } });
            client.create(&objects::path(n, "configmap"), map).await;
        }
        for (name, port) in STORES_IN_PODS {
            let service = json!({
                "apiVersion": "v1", "kind": "Service", "metadata": { "name": name },
                "spec": { "selector": { "deployment": name }, "ports": [{ "port": port }] },
            });
            let mut store = store(name);
            if self.asks && name != "zync-database" {
                store["spec"]["template"]["metadata"]["annotations"] = json!({ "keepsake/agent": name });
            }
            node.apply(n, &[store, service]);
        }
    }

    /// Makes what stands for the applications.
    pub fn build_applications(&self, node: &Node) {
        self.build_some(node, &every_name());
    }

    fn build_some(&self, node: &Node, applications: &[&str]) {
        let wanted = WORKLOADS.iter().filter(|(name, _)| applications.contains(name));
        let all: Vec<_> = wanted
            .map(|(name, replicas)| running(workload(Form::Deployments, name, *replicas, name.split('-').next())))
            .collect();
        node.apply(&self.namespace, &all);
    }

    /// Makes a volume and the claim on it.
    pub fn make_volume(&self, node: &Node, claim: &str) {
        let folder = self.volume(node, claim);
        std::fs::create_dir_all(&folder).expect("make a volume");
        let done = run(tool_command("chown").arg(format!("{USER}:{USER}")).arg(&folder));
        assert!(done.status.success(), "chown: {done:?}");
        let modes = json!(["ReadWriteMany", "ReadWriteOnce"]);
        let volume = json!({
            "apiVersion": "v1", "kind": "PersistentVolume", "metadata": { "name": format!("{}-{claim}", self.namespace) },
            "spec": {
                "capacity": { "storage": "1Gi" }, "accessModes": modes, "persistentVolumeReclaimPolicy": "Retain",
                "hostPath": { "path": folder }, "claimRef": { "namespace": self.namespace, "name": claim },
            },
        });
        let claim = json!({
            "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": { "name": claim },
            "spec": { "storageClassName": "", "accessModes": ["ReadWriteMany"], "resources": { "requests": { "storage": "1Gi" } } },
        });
        node.apply(&self.namespace, &[volume, claim]);
    }

    /// Deletes the namespace with all that is in it, and every volume's files.
    pub fn lose(&mut self, node: &Node) {
        self.lines.clear();
        let product = ["-n", &self.namespace, "patch", "product", "my-product", "--type=merge", "-p"];
        node.must(&[&product[..], &[r#"{"metadata":{"finalizers":[]}}"#]].concat());
        node.must(&["delete", "namespace", &self.namespace, "--timeout=180s"]);
        for claim in CLAIMS {
            node.must(&["delete", "persistentvolume", &format!("{}-{claim}", self.namespace)]);
            std::fs::remove_dir_all(self.volume(node, claim)).expect("delete a volume's files");
        }
    }

    /// The stores, as servers that the test asks and fills.
    pub async fn installation(&mut self, node: &Node) -> Installation {
        let mut ports = Vec::new();
        for (name, port) in STORES_IN_PODS {
            let line = node.tunnel(&self.namespace, name, port).await;
            ports.push(line.port);
            self.lines.push(line);
        }
        Installation {
            name: "prod".to_owned(),
            mysql: MysqlServer::elsewhere(ports[0]),
            backend: RedisServer::elsewhere(ports[1]),
            system_redis: RedisServer::elsewhere(ports[2]),
            zync: PostgresServer::elsewhere(ports[3]),
            storage: self.volume(node, "system-storage"),
            agents: Vec::new(),
        }
    }

    /// Gives the files of system-storage to the user of the pods.
    pub fn own_storage(&self, node: &Node) {
        let done = run(tool_command("chown")
            .args(["-Rh", &format!("{USER}:{USER}")])
            .arg(self.volume(node, "system-storage")));
        assert!(done.status.success(), "chown: {done:?}");
    }
}

fn every_name() -> Vec<&'static str> {
    WORKLOADS.iter().map(|(name, _)| *name).collect()
}

/// Root may come from anywhere, as in 3scale's image.
fn init_sql() -> String {
    let password = mysql::PASSWORD.replace('\\', r"\\").replace('\'', r"\'");
    [
        format!("CREATE USER IF NOT EXISTS root@'%' IDENTIFIED BY '{password}';"),
        format!("ALTER USER root@'%' IDENTIFIED BY '{password}';"),
        // Made without a password, and nearer to whoever is in the same pod.
        "DROP USER IF EXISTS root@'127.0.0.1', root@'::1';".to_owned(),
        "GRANT ALL ON *.* TO root@'%' WITH GRANT OPTION;".to_owned(),
        "CREATE DATABASE IF NOT EXISTS `system` CHARACTER SET utf8mb3 COLLATE utf8mb3_bin;".to_owned(),
    ]
    .join("\n")
}

/// The Deployment of a store, whose pod is as the operator makes it but for the image and what starts it.
fn store(name: &str) -> Value {
    let mut pod = webhook::pod(name);
    let (script, extra) = match name {
        "system-mysql" => (MYSQL, None),
        "zync-database" => (
            POSTGRES,
            Some(
                json!({ "name": "password", "secret": { "secretName": "zync", "items": [{ "key": "ZYNC_DATABASE_PASSWORD", "path": "password" }] } }),
            ),
        ),
        _ => ("exec redis-server /etc/redis.d/redis.conf", None),
    };
    let container = &mut pod["spec"]["containers"][0];
    container["image"] = json!(STORES);
    container["command"] = json!(["/bin/bash", "-c", script]);
    container["resources"] = json!({ "limits": { "memory": "1Gi" }, "requests": { "cpu": "10m", "memory": "64Mi" } });
    let port = container["ports"][0]["containerPort"].clone();
    container["readinessProbe"] = json!({ "tcpSocket": { "port": port }, "periodSeconds": 1 });
    if let Some(volume) = extra {
        let mounts = container["volumeMounts"].as_array_mut().expect("mounts");
        mounts.push(json!({ "name": "password", "mountPath": "/etc/password" }));
        pod["spec"]["volumes"].as_array_mut().expect("volumes").push(volume);
    }
    pod["spec"]["securityContext"] = json!({ "runAsUser": USER, "runAsGroup": USER, "fsGroup": USER });
    let mut labels = pod["metadata"]["labels"].clone();
    labels.as_object_mut().expect("labels").remove("pod-template-hash");
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": name, "labels": labels },
        "spec": {
            "replicas": 1, "strategy": { "type": "Recreate" }, "selector": { "matchLabels": { "deployment": name } },
            "template": { "metadata": { "labels": labels }, "spec": pod["spec"] },
        },
    })
}

/// A workload whose pods run and do nothing.
fn running(mut workload: Value) -> Value {
    let spec = &mut workload["spec"]["template"]["spec"];
    spec["terminationGracePeriodSeconds"] = json!(1);
    spec["containers"][0]["image"] = json!(APPLICATIONS);
    spec["containers"][0]["args"] = json!(["sleep", "infinity"]);
    workload
}
