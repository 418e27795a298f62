//! What is wrong on purpose is seen: each line breaks one text of one file and says what must be told of it.

use super::{S3, overlay_file, problems, with_sidecars};
use keepsake_tests::kustomize::Tree;

/// File, text, what stands there instead, overlay, and words of the problem.
type Break = (&'static str, &'static str, &'static str, &'static str, &'static str);

const MYSQL: &str = "agents/system-mysql/agent.yaml";
const BACKEND: &str = "agents/backend-redis/agent.yaml";
const FILES: &str = "agents/system-storage/agent.yaml";
const SETTINGS: &str = "overlays/operator/settings.yaml";
const BACKUP: &str = "base/backup.yaml";
const WEBHOOK: &str = "components/webhook/webhook.yaml";
const SIDECARS: &str = "components/webhook/settings.yaml";
const REGISTRATION: &str = "components/webhook/registration.yaml";

const BREAKS: &[Break] = &[
    // Types.
    (MYSQL, "revisionHistoryLimit", "revisionHistoryLimits", "operator", "no field"),
    (MYSQL, "replicas: 1", "replicas: one", "operator", "invalid type"),
    (MYSQL, "targetPort: agent", "targetport: agent", "operator", "no field"),
    (BACKUP, "concurrencyPolicy: Forbid", "concurrency: Forbid", "operator", "no field"),
    (BACKUP, "apiVersion: batch/v1", "apiVersion: batch/v2", "operator", "none of the kinds"),
    (
        "base/account.yaml",
        "v1\nkind: ServiceAccount",
        "rbac.authorization.k8s.io/v1\nkind: Role",
        "operator",
        "none of the kinds",
    ),
    // Flags and variables.
    (BACKUP, "[backup, --all]", "[backup, --everything]", "operator", "--everything"),
    (BACKUP, "[backup, --all]", "[serve]", "operator", "no command serve"),
    (BACKUP, "KEEPSAKE_TOPOLOGY", "KEEPSAKE_TOPOLOGIE", "operator", "no variable KEEPSAKE_TOPOLOGIE"),
    (
        BACKUP,
        "              env:\n",
        "              envFrom: [{ configMapRef: { name: keepsake-repository } }]\n              env:\n",
        "operator",
        "field `envFrom`",
    ),
    (MYSQL, "args: [mysql]", "args: [mariadb]", "operator", "no command mariadb"),
    (MYSQL, "0.0.0.0:9090", "everywhere", "operator", "everywhere"),
    (BACKEND, "KEEPSAKE_REDIS_REPLICATION_HOST", "KEEPSAKE_REDIS_HOST", "operator", "no variable KEEPSAKE_REDIS_HOST"),
    (SETTINGS, "KEEPSAKE_MYSQL_USER", "KEEPSAKE_MYSQL_ACCOUNT", "operator", "KEEPSAKE_MYSQL_ACCOUNT"),
    (SETTINGS, "  KEEPSAKE_MYSQL_INSECURE: 'true'\n", "", "operator", "--mysql-insecure"),
    (SETTINGS, "redis://system-redis", "redis://:secret@system-redis", "operator", "carries credentials"),
    (SETTINGS, "backup=coordinator", "everything=coordinator", "operator", "everything=coordinator"),
    (
        "components/repository-s3/repository.yaml",
        "KEEPSAKE_S3_REGION",
        "KEEPSAKE_S3_PLACE",
        "operator",
        "KEEPSAKE_S3_PLACE",
    ),
    ("components/redis-data/system-redis.yaml", "value: kubelet", "value: somebody", "operator", "somebody"),
    // Images.
    ("overlays/operator/kustomization.yaml", "newTag: 0.1.0", "newTag: latest", "operator", "pinned"),
    ("overlays/operator/kustomization.yaml", "newTag: 0.1.0", "newTag: 0.0.9", "operator", "not of this version"),
    ("overlays/external/kustomization.yaml", "newTag: 8.0.42", "newTag: '8'", "external", "pinned"),
    (
        "overlays/operator/kustomization.yaml",
        "name: tools-of-system-mysql",
        "name: tools-of-mysql",
        "operator",
        "pinned",
    ),
    (MYSQL, "/usr/local/bin/keepsake-agent", "/usr/bin/keepsake-agent", "operator", "no such file"),
    // restricted-v2.
    (MYSQL, "runAsNonRoot: true", "runAsNonRoot: false", "operator", "as root"),
    (MYSQL, "runAsNonRoot: true", "runAsNonRoot: true\n        runAsUser: 27", "operator", "names a user"),
    (FILES, "type: RuntimeDefault", "type: Unconfined", "namespaced", "seccomp"),
    (FILES, "readOnlyRootFilesystem: true", "readOnlyRootFilesystem: false", "namespaced", "write its root"),
    (FILES, "allowPrivilegeEscalation: false", "privileged: true", "namespaced", "more than it is"),
    (BACKUP, "drop: [ALL]", "drop: [NET_RAW]", "operator", "capabilities"),
    (BACKUP, "automountServiceAccountToken: false", "automountServiceAccountToken: true", "operator", "token"),
    (MYSQL, "enableServiceLinks: false", "enableServiceLinks: true", "operator", "enableServiceLinks"),
    (BACKEND, "limits: { memory: 64Mi }", "limits: { memory: 640Mi }", "operator", "bytes of memory"),
    (BACKEND, "-tls, defaultMode: 288", "-tls", "operator", "defaultMode"),
    (BACKEND, "emptyDir: {}", "hostPath: { path: /tmp }", "operator", "restricted-v2"),
    (MYSQL, "name: copy-agent", "name: agent", "operator", "of one name"),
    (FILES, "mountPath: /storage", "mountPath: /elsewhere", "operator", "/storage is on none"),
    (FILES, "        - name: tmp\n          emptyDir: {}\n", "", "operator", "and mounts"),
    // Who finds whom.
    ("base/topology.yaml", "keepsake-system-redis:9090", "system-redis:9090", "operator", "is no agent"),
    ("base/topology.yaml", "keepsake-system-redis:9090", "keepsake-backend-redis:9090", "operator", "not system-redis"),
    (
        "base/topology.yaml",
        "name: system-redis, engine: redis",
        "name: system-redis, engine: mysql",
        "operator",
        "not system-redis by mysql",
    ),
    ("base/topology.yaml", "name: prod", "name: production", "operator", "another installation"),
    ("base/topology.yaml", "signing_key:", "signing-key:", "operator", "not a topology"),
    (
        "base/topology.yaml",
        "repository: { signing_key:",
        "repository: { url: 's3://bucket/other', signing_key:",
        "operator",
        "so that it is said once",
    ),
    (
        "components/repository-s3/coordinator.yaml",
        "/etc/keepsake/s3, readOnly",
        "/etc/s3, readOnly",
        "operator",
        "none of its volumes",
    ),
    (BACKUP, "keepsake-repository", "keepsake-agents", "operator", "has no KEEPSAKE_REPOSITORY"),
    ("base/topology.yaml", "/etc/keepsake/signing/", "/etc/signing/", "operator", "none of its volumes"),
    (BACKEND, "publishNotReadyAddresses: true", "publishNotReadyAddresses: false", "operator", "is no agent"),
    (BACKEND, "path: /readyz", "path: /ready", "operator", "readiness probe"),
    (BACKEND, "'0.0.0.0:9091'", "'127.0.0.1:9091'", "operator", "listens on"),
    (BACKEND, "type: Recreate", "type: RollingUpdate", "operator", "there twice"),
    (BACKEND, "serviceAccountName: keepsake-agent", "serviceAccountName: amp", "operator", "no account"),
    (
        "certificates/cert-manager.yaml",
        "[system-redis.prod]",
        "[system-redis]",
        "operator",
        "not for system-redis.prod",
    ),
    ("certificates/cert-manager.yaml", ", client auth", "", "operator", "to serve and to call"),
    ("certificates/cert-manager.yaml", "keepsake-zync-database-tls", "keepsake-zync-tls", "operator", "nothing makes"),
    (SETTINGS, "backup=coordinator.keepsake", "backup=coordinator.prod", "operator", "lets coordinator.prod backup"),
    // Network.
    ("agents/shared/network.yaml", "name: keepsake-coordinator", "name: coordinator", "operator", "no coordinator"),
    ("agents/shared/network.yaml", "[Ingress, Egress]", "[Egress]", "operator", "Ingress is open"),
    ("agents/shared/network.yaml", "port: 9090", "port: 9091", "operator", "may be called"),
    ("agents/shared/network.yaml", "port: 53 }", "port: 443 }", "operator", "may call Pods"),
    (
        "base/network.yaml",
        "          matchLabels:\n              app.kubernetes.io/name: keepsake-agent",
        "          matchLabels: {}",
        "operator",
        "may call",
    ),
    (
        "base/network.yaml",
        "    matchLabels:\n      app.kubernetes.io/name: keepsake-coordinator",
        "    matchLabels:\n      app.kubernetes.io/name: keepsake",
        "operator",
        "selects no pod",
    ),
    (
        MYSQL,
        "matchLabels: { deployment: system-mysql }",
        "matchLabels: { deployment: system-app }",
        "operator",
        "may call Nobody",
    ),
    (MYSQL, "port: 3306", "port: 3307", "operator", "does not reach its store"),
    ("components/repository-s3/network.yaml", "cidr: 192.0.2.10/32", "cidr: 0.0.0.0/0", "operator", "may call Nobody"),
    ("overlays/external/network.yaml", "component: system-mysql", "component: mysql", "external", "selects no pod"),
    // Agents in the databases' own pods.
    (WEBHOOK, "args: [webhook]", "args: [webhooks]", "operator", "no command webhooks"),
    (WEBHOOK, "KEEPSAKE_SETTINGS", "KEEPSAKE_WEBHOOK_SETTINGS", "operator", "no variable KEEPSAKE_WEBHOOK_SETTINGS"),
    (WEBHOOK, "minAvailable: 1", "minAvailabel: 1", "operator", "no field"),
    (WEBHOOK, "mountPath: /etc/keepsake/webhook", "mountPath: /etc/webhook", "operator", "on none of its volumes"),
    (WEBHOOK, "drop: [ALL]", "drop: [NET_RAW]", "operator", "capabilities"),
    (WEBHOOK, "port: 443,", "port: 8443,", "operator", "calls nothing"),
    (SIDECARS, "image: keepsake:0.1.0", "image: keepsake:0.0.9", "operator", "of another image"),
    (SIDECARS, "engine: mysql", "engine: mariadb", "operator", "no command mariadb"),
    (SIDECARS, "KEEPSAKE_MYSQL_HOST", "KEEPSAKE_MYSQL_SERVER", "operator", "no variable KEEPSAKE_MYSQL_SERVER"),
    (SIDECARS, "by_labels", "by-labels", "operator", "by-labels"),
    (SIDECARS, "volume: mysql-storage", "volume: mysql-data", "operator", "no volume mysql-data"),
    (SIDECARS, "container: system-mysql", "container: mysql", "operator", "no container mysql"),
    (SIDECARS, "[keepsake-system-mysql]", "[keepsake-mysql]", "operator", "no ConfigMap keepsake-mysql"),
    (SIDECARS, "keepsake-system-mysql-tls", "keepsake-mysql-tls", "operator", "nothing makes keepsake-mysql-tls"),
    (SIDECARS, ", shared: true", "", "operator", "/var/lib/redis/data is on none"),
    (SIDECARS, "mount: /etc/keepsake/s3", "mount: /etc/s3", "operator", "/etc/keepsake/s3/credentials is on none"),
    (
        "sidecars/system-mysql/service.yaml",
        "sidecar: system-mysql",
        "sidecar: system-redis",
        "operator",
        "not system-mysql",
    ),
    (
        "sidecars/system-mysql/service.yaml",
        "targetPort: keepsake-agent",
        "targetPort: agent",
        "operator",
        "is no agent",
    ),
    ("components/webhook/network.yaml", "port: 8443", "port: 9091", "operator", "everybody may come in"),
    (REGISTRATION, "failurePolicy: Ignore", "failurePolicy: Fail", "operator", "keep pods from being made"),
    (REGISTRATION, "timeoutSeconds: 3", "timeoutSeconds: 30", "operator", "keep pods from being made"),
    (REGISTRATION, "path: /mutate", "path: /change", "operator", "calls nothing"),
    (REGISTRATION, "namespace: 3scale", "namespace: default", "operator", "calls nothing"),
    (REGISTRATION, "resources: [pods]", "resources: ['*']", "operator", "more than new pods"),
    (REGISTRATION, "matchLabels: { keepsake/sidecars: allowed }", "matchLabels: {}", "operator", "nobody has allowed"),
    (REGISTRATION, "sideEffects: None", "sideEffect: None", "operator", "sideEffect"),
    ("certificates/webhook.yaml", "webhook.3scale.svc", "webhook", "operator", "not for keepsake-webhook.3scale.svc"),
    ("certificates/webhook.yaml", "server auth]", "server auth, client auth]", "operator", "not for keepsake-webhook"),
    // Overlays.
    (
        "overlays/namespaced/kustomization.yaml",
        "resources:\n",
        "resources:\n  - ../../base\n",
        "namespaced",
        "runs outside",
    ),
    ("overlays/operator/kustomization.yaml", "  - ../../agents/system-storage\n", "", "operator", "is no agent"),
    ("overlays/operator/kustomization.yaml", "  - settings.yaml\n", "", "operator", "no ConfigMap keepsake-agents"),
    (
        "overlays/operator/kustomization.yaml",
        "namespace: 3scale",
        "namespace: default",
        "operator",
        "another namespace",
    ),
    (
        "components/redis-data/system-redis.yaml",
        "/spec/template/spec/volumes/-",
        "/spec/template/spec/volume/-",
        "operator",
        "there is no /spec",
    ),
];

/// The same where agents are found, with `components/objects`.
const FOUND: &[Break] = &[
    (
        BACKEND,
        "name: keepsake-backend-redis\n  labels:\n    app.kubernetes.io/name: keepsake-agent\n    app.kubernetes.io/part-of: keepsake\n    keepsake/component: backend-redis\nspec:\n  selector:",
        "name: keepsake-backend\n  labels:\n    app.kubernetes.io/name: keepsake-agent\n    app.kubernetes.io/part-of: keepsake\n    keepsake/component: backend-redis\nspec:\n  selector:",
        "operator",
        "not found by its Service",
    ),
    (
        "overlays/operator/kustomization.yaml",
        "  - ../../agents/zync-database\n",
        "",
        "operator",
        "zync-database is looked for",
    ),
    (
        "components/objects/coordinator.yaml",
        "mountPath: /var/run/secrets/kubernetes.io/serviceaccount",
        "mountPath: /token",
        "operator",
        "cannot ask the API server",
    ),
    ("components/objects/topology.yaml", "namespace: 3scale", "namespce: 3scale", "operator", "not a topology"),
    // Its topology in the place of that of `objects`: the objects would be in no set.
    (
        "overlays/operator/kustomization.yaml",
        "  - ../../components/objects\n",
        "  - ../../components/objects\n  - ../../components/consistency-preferred\n",
        "operator",
        "another component's topology",
    ),
];

#[test]
fn manifests_what_is_wrong_where_agents_are_found_is_seen() {
    let tree =
        Tree::of_the_project().with(&overlay_file("operator"), S3, &format!("{S3}  - ../../components/objects\n"));
    let told = |(file, from, to, overlay, words): &Break| {
        let told = problems(&tree.with(file, from, to), overlay);
        assert!(told.iter().any(|problem| problem.contains(words)), "{file}: {to:?} instead of {from:?}: {told:?}");
    };
    FOUND.iter().for_each(told);
}

#[test]
fn manifests_what_is_wrong_is_seen() {
    let whole = Tree::of_the_project();
    let with_data = whole.with(&overlay_file("operator"), S3, &format!("{S3}  - ../../components/redis-data\n"));
    let beside = with_sidecars(&whole, "operator");
    let mut unseen = Vec::new();
    for (file, from, to, overlay, words) in BREAKS {
        let tree = match *file {
            file if file.contains("redis-data") => &with_data,
            file if ["webhook", "sidecars/"].iter().any(|word| file.contains(word)) => &beside,
            _ => &whole,
        };
        let told = problems(&tree.with(file, from, to), overlay);
        if !told.iter().any(|problem| problem.contains(words)) {
            unseen.push(format!("{file}: {to:?} instead of {from:?}: {told:?}"));
        }
    }
    assert!(unseen.is_empty(), "not seen:\n{}", unseen.join("\n"));
}
