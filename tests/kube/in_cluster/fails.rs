//! Coordinators that never run, or end before their run is begun: what is said then, and that nothing is left of them.

use keepsake_coordinator::platform::kubernetes::Kubernetes;
use keepsake_coordinator::platform::kubernetes::coordinator::{Order, State};
use keepsake_core::secret::Secret;
use keepsake_tests::cluster::faults::{Faulty, Rule};
use keepsake_tests::cluster::kubelet::{Fate, Kubelet};
use keepsake_tests::scratch::Scratch;
use kube::client::Body;

use super::played::batch;
use super::*;

/// A repository and a topology, without any store.
struct Outside {
    scratch: Scratch,
}

impl Outside {
    fn new(kubeconfig: &Path, namespace: &str) -> Self {
        let it = Self { scratch: Scratch::new() };
        it.must(&["keys", "generate", "--signing-key", &it.path("signing.pem")]);
        let recipients = ["a", "b"].map(|n| {
            let made = it.must(&["--output", "json", "keys", "generate", "--identity", &it.path(n)]);
            let made: serde_json::Value = serde_json::from_str(&made).expect("JSON");
            made["recipient"].as_str().expect("a recipient").to_owned()
        });
        let text = format!(
            "repository: {{ url: 'file://{}', signing_key: signing.pem }}\ninstallations:\n  - name: prod\n    platform: kubernetes\n    kubernetes: {{ \
             namespace: {namespace}, kubeconfig: {}, deadline: 60 }}\n    components: [{{ name: system-redis, engine: redis, agent: 'http://127.0.0.1:9' }}]\n",
            it.scratch.folder("repository", 0o700).display(),
            kubeconfig.display()
        );
        std::fs::write(it.topology(), text).expect("write a topology");
        it.must(&["init", "--recipient", &recipients[0], "--recipient", &recipients[1]]);
        it
    }

    fn path(&self, file: &str) -> String {
        self.scratch.path().join(file).display().to_string()
    }

    fn topology(&self) -> PathBuf {
        self.scratch.path().join("keepsake.yaml")
    }

    fn must(&self, args: &[&str]) -> String {
        let mut command = tool_command(programs().join("keepsake"));
        let done = run(command.arg("--topology").arg(self.topology()).args(args));
        assert!(done.status.success(), "{args:?}: {}", stderr(&done));
        stdout(&done)
    }

    /// From now on a coordinator must run within so many seconds instead of the other number.
    fn must_run_within(&self, seconds: u32, other: u32) {
        let text = std::fs::read_to_string(self.topology()).expect("the topology");
        let (from, to) = (format!("deadline: {other} "), format!("deadline: {seconds} "));
        assert!(text.contains(&from));
        std::fs::write(self.topology(), text.replace(&from, &to)).expect("write it");
    }

    /// Must fail with this status and these words; nothing of it is left.
    async fn must_fail(&self, client: &Client, args: &[&str], status: i32, words: &[&str]) {
        let done = at_work(&self.topology(), args).await.expect("it is waited for");
        let told = stderr(&done);
        assert_eq!(done.status.code(), Some(status), "{args:?}: {told}");
        for word in words {
            assert!(told.contains(word), "{word}: {told}");
        }
        assert!(secrets(client, NAMESPACE).await.is_empty(), "a Secret is left: {told}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kube_in_cluster_what_cannot_be_done_is_said() {
    let Some(plane) = ControlPlane::start("kube_in_cluster_what_cannot_be_done_is_said").await else { return };
    let client = plane.client().await;
    skeleton::namespace(&client, NAMESPACE).await;
    let denied = Outside::new(&plane.kubeconfig_of_the_clerk(), NAMESPACE);
    let words = ["get cronjobs.batch keepsake-backup", "create jobs.batch", "list events", "grant it with a Role"];
    denied.must_fail(&client, &["backup"], 1, &words).await;
    let it = Outside::new(&plane.kubeconfig(), NAMESPACE);
    it.must_fail(&client, &["backup"], 1, &["there is no cronjob/keepsake-backup in namespace 3scale", "--cronjob"])
        .await;
    cron_job(&client, NAMESPACE).await;
    it.must_fail(&client, &["backup", "--dry-run"], 2, &["where you sit"]).await;
    it.must_fail(&client, &["verify"], 2, &["--in-cluster goes with backup"]).await;
    it.must_fail(&client, &["resume"], 1, &["nothing to go on with"]).await;
    let words =
        ["there is no serviceaccount/keepsake-restore in namespace 3scale", "manifests/access", "--service-account"];
    it.must_fail(&client, &["cancel"], 1, &words).await;
    assert!(jobs(&client, NAMESPACE).await.is_empty(), "who is refused makes no Job");
    never_runs(&client, &it).await;
    ends_before(&client, &it).await;
    is_deleted(&client, &it).await;
    loses_its_pod(&client, &it).await;
    is_left_by_ctrl_c(&client, &it).await;
    is_heard(&client).await;
    the_identity_goes(&client, &client, "keepsake-known").await;
    let faulty = Faulty::new(&client, Rule::LoseAnswers);
    the_identity_goes(&client, &faulty.client, "keepsake-unknown").await;
}

async fn never_runs(client: &Client, it: &Outside) {
    it.must_run_within(4, 60);
    {
        let _kubelet = Kubelet::of_jobs(client.clone(), NAMESPACE, Fate::NoImage);
        let words = ["waits: ", "has not begun after 4 s, and is taken back", "ImagePullBackOff (no such image)"];
        it.must_fail(client, &["backup"], 1, &words).await;
    }
    assert!(jobs(client, NAMESPACE).await.is_empty(), "it could begin when nobody looks");
    // Why there is no pod, or why a pod cannot be started, only events tell.
    let path = format!("/apis/batch/{}/namespaces/{NAMESPACE}/cronjobs/keepsake-backup", batch(client).await);
    let with = |class: serde_json::Value| json!({ "spec": { "jobTemplate": { "spec": { "template": { "spec": { "priorityClassName": class } } } } } });
    client.merge(&path, with(json!("none-such"))).await;
    it.must_fail(client, &["backup"], 1, &["it has no pod; FailedCreate", "none-such", "is taken back"]).await;
    client.merge(&path, with(json!(null))).await;
    it.must_run_within(60, 4);
}

/// It says why, and what it says is all that is known.
async fn ends_before(client: &Client, it: &Outside) {
    let mut stage = Stage::new(client.clone(), NAMESPACE, it.path("none.yaml").into());
    stage.forget(client).await;
    let (played, ()) = tokio::join!(
        stage.play(How::ToTheEnd),
        it.must_fail(client, &["backup"], 1, &["has ended before its run was begun", "exit code 1", "none.yaml"])
    );
    assert!(played.secret.is_none());
}

async fn is_deleted(client: &Client, it: &Outside) {
    let mut stage = Stage::new(client.clone(), NAMESPACE, it.topology());
    stage.forget(client).await;
    tokio::join!(it.must_fail(client, &["backup"], 1, &["was deleted by somebody", "nothing was done"]), async {
        stage.pass_over().await;
        for job in jobs(client, NAMESPACE).await {
            client
                .remove(&format!(
                    "/apis/batch/v1/namespaces/{NAMESPACE}/jobs/{}?propagationPolicy=Background",
                    name(&job)
                ))
                .await;
        }
    });
}

/// The command outside, which can be heard.
fn heard(it: &Outside) -> std::process::Child {
    let mut command = in_cluster(&it.topology(), &["backup"]);
    command.stderr(std::process::Stdio::piped()).stdout(std::process::Stdio::null());
    command.spawn().expect("start keepsake")
}

/// Returns once it has said this. It is read a byte at a time, so that the rest is left for whoever waits for its end.
fn until_said(child: &mut std::process::Child, word: &str) {
    let stream = child.stderr.as_mut().expect("stderr");
    let mut told = String::new();
    let mut byte = [0];
    while !told.lines().last().is_some_and(|line| line.contains(word)) {
        let n = std::io::Read::read(stream, &mut byte).expect("read");
        assert!(n == 1, "it ended before it said {word}: {told}");
        told.push(char::from(byte[0]));
    }
}

/// Its pod is taken away in the middle; the one that is made in its place does not stay.
async fn loses_its_pod(client: &Client, it: &Outside) {
    let _kubelet = Kubelet::of_jobs(client.clone(), NAMESPACE, Fate::Run);
    let known = jobs(client, NAMESPACE).await.len();
    let mut child = heard(it);
    until_said(&mut child, " runs");
    let pods = format!("/api/v1/namespaces/{NAMESPACE}/pods");
    for pod in played::all(client, &format!("{pods}?labelSelector=keepsake/coordinates")).await {
        client.remove(&format!("{pods}/{}?gracePeriodSeconds=0", name(&pod))).await;
    }
    let done = tokio::task::spawn_blocking(move || child.wait_with_output()).await.expect("it is waited for");
    let done = done.expect("its output");
    assert_eq!(done.status.code(), Some(1), "{}", stderr(&done));
    assert!(stderr(&done).contains("was taken away before its run was begun: nothing was done"), "{}", stderr(&done));
    assert_eq!(jobs(client, NAMESPACE).await.len(), known, "it would begin anew when nobody looks");
}

/// A backup goes on without whoever asked for it.
async fn is_left_by_ctrl_c(client: &Client, it: &Outside) {
    let known = jobs(client, NAMESPACE).await.len();
    let mut child = heard(it);
    until_said(&mut child, "waits: ");
    kill_process(Pid::from_child(&child), Signal::INT).expect("Ctrl-C");
    let done = tokio::task::spawn_blocking(move || child.wait_with_output()).await.expect("it is waited for");
    let done = done.expect("its output");
    assert_eq!(done.status.code(), Some(130), "{}", stderr(&done));
    for word in
        ["goes on. Look at it with", "logs --follow job/keepsake-backup-", "keepsake cancel --installation prod"]
    {
        assert!(stderr(&done).contains(word), "{word}: {}", stderr(&done));
    }
    assert_eq!(jobs(client, NAMESPACE).await.len(), known + 1, "it was ended");
}

fn order(name: &str) -> Order {
    Order {
        cron_job: "keepsake-backup".to_owned(),
        account: None,
        name: name.to_owned(),
        installation: "prod".parse().expect("a name"),
        run: None,
        arguments: vec!["finalize".to_owned()],
        by: "a test".to_owned(),
        with_identity: false,
    }
}

/// It is handed over and taken away again, also when answers are lost; and so is the Job.
pub(crate) async fn the_identity_goes(client: &Client, with: &Client, name: &str) {
    let kubernetes = Kubernetes::over(crate::settings(NAMESPACE, PathBuf::from("/nowhere")), with.clone());
    let identity = Secret::new("AGE-SECRET-KEY-1");
    let job = kubernetes.start_coordinator(&order(name), Some(&identity)).await;
    let mut job = job.unwrap_or_else(|e| panic!("{}", e.chain()));
    let path = format!("/api/v1/namespaces/{NAMESPACE}/secrets/{name}");
    let secret = client.at(&path).await.expect("a Secret");
    let made = client.at(&format!("/apis/batch/v1/namespaces/{NAMESPACE}/jobs/{name}")).await.expect("a Job");
    assert_eq!(secret["metadata"]["ownerReferences"][0]["uid"], made["metadata"]["uid"]);
    assert!(job.holds_identity());
    job.drop_identity().await.unwrap_or_else(|e| panic!("{}", e.chain()));
    assert!(!job.holds_identity());
    assert!(client.at(&path).await.is_none(), "the identity of the set is left");
    job.take_back().await.unwrap_or_else(|e| panic!("{}", e.chain()));
    wait_for("the Job to be gone", PATIENCE, async || {
        let left = jobs(client, NAMESPACE).await.into_iter().any(|job| played::name(&job) == name);
        if left { Err("it is left") } else { Ok(()) }
    })
    .await;
}

/// What a pod says, where there is a node: here somebody else gives the log.
async fn is_heard(client: &Client) {
    let inner = client.clone();
    let service = tower::service_fn(move |request: hyper::Request<Body>| {
        let inner = inner.clone();
        async move {
            if request.uri().path().ends_with("/log") {
                assert!(request.uri().query().is_some_and(|q| q.contains("container=keepsake")), "{}", request.uri());
                return Ok(hyper::Response::new(Body::from(b"one\ntwo\n".to_vec())));
            }
            inner.send(request).await
        }
    });
    let settings = crate::settings(NAMESPACE, PathBuf::from("/nowhere"));
    let kubernetes = Kubernetes::over(settings, Client::new(service, "default"));
    let order = order("keepsake-heard");
    let mut job = kubernetes.start_coordinator(&order, None).await.unwrap_or_else(|e| panic!("{}", e.chain()));
    assert_eq!(job.log().await.expect("nothing yet"), "");
    let _kubelet = Kubelet::of_jobs(client.clone(), NAMESPACE, Fate::Run);
    wait_for("it to run", PATIENCE, async || match job.look().await.expect("an answer") {
        State::Running => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    assert_eq!(job.log().await.expect("a log"), "one\ntwo\n");
    job.take_back().await.expect("it is taken back");
}
