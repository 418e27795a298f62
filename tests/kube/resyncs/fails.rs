//! Jobs that fail, never begin, take too long or are deleted: what is said then, and that whoever resumes the run may do it again.

use keepsake_coordinator::topology::KubernetesSettings;

use super::*;

#[tokio::test]
async fn kube_a_resync_that_fails_says_why() {
    let Some(plane) = ControlPlane::start("kube_a_resync_that_fails_says_why").await else { return };
    let client = plane.client().await;
    fails(&plane, &client).await;
    never_begins(&plane, &client).await;
    takes_too_long(&plane, &client).await;
    is_deleted(&plane, &client).await;
}

fn within(plane: &ControlPlane, client: &Client, namespace: &str, deadline: u32, whole: u32) -> Kubernetes {
    let settings = settings(namespace, plane.kubeconfig());
    Kubernetes::over(KubernetesSettings { deadline, resync_deadline: whole, ..settings }, client.clone())
}

async fn fails(plane: &ControlPlane, client: &Client) {
    let namespace = "fails";
    build(client, Form::Deployments, namespace).await;
    let kubernetes = over(plane, client, namespace);
    let (key, task) = (run(1), ResyncTask::ZyncDomains);
    let kubelet =
        Kubelet::of_jobs(client.clone(), namespace, Fate::Fail("cannot reach redis://:secret@system-redis:6379"));
    let told = kubernetes.resync(&key, task).await.expect_err("it fails");
    drop(kubelet);
    assert_eq!(told.kind(), Kind::Internal);
    let name = format!("job/keepsake-zync-domains-{}", key.run);
    for word in [
        name.as_str(),
        "BackoffLimitExceeded",
        "3 pods failed: exit code 1",
        // Without a node there is no log; what the container said last is kept by its status.
        "has no log",
        "its container ended with: cannot reach redis://…@system-redis:6379",
        "keepsake resume",
    ] {
        assert!(told.chain().contains(word), "{word}: {}", told.chain());
    }
    assert!(!told.chain().contains("secret"), "{}", told.chain());
    // It is left to be looked at: asked again by the same epoch, nothing else is said and nothing done.
    let job = the_job(client, namespace).await;
    let again = kubernetes.resync(&key, task).await.expect_err("it has failed");
    assert!(again.chain().contains("BackoffLimitExceeded"), "{}", again.chain());
    assert_eq!(the_job(client, namespace).await["metadata"]["uid"], job["metadata"]["uid"]);
    // Somebody goes on without.
    let without = KubernetesSettings { resync: Some(Vec::new()), ..settings(namespace, plane.kubeconfig()) };
    let told = Kubernetes::over(without, client.clone()).resync(&later(&key, 2), task).await;
    assert!(told.is_ok_and(|told| told.contains("resync: []")));
    // Another run's last look names it.
    let looks = kubernetes.check(&run(7), &[]).await.unwrap_or_else(|e| panic!("{}", e.chain()));
    let left = looks.iter().find(|l| l.check == "jobs of Keepsake").expect("a word of it");
    assert!(left.warning && left.found.contains(&name), "{left:?}");
    // Whoever resumes makes it anew.
    let _kubelet = Kubelet::of_jobs(client.clone(), namespace, Fate::Succeed);
    let told = kubernetes.resync(&later(&key, 2), task).await;
    told.unwrap_or_else(|e| panic!("{}", e.chain()));
    no_job_is_left(client, namespace).await;
}

async fn never_begins(plane: &ControlPlane, client: &Client) {
    let namespace = "never-begins";
    build(client, Form::Deployments, namespace).await;
    let kubelet = Kubelet::of_jobs(client.clone(), namespace, Fate::NoImage);
    let kubernetes = within(plane, client, namespace, 3, 60);
    let (key, task) = (run(1), ResyncTask::CacheFlush);
    let told = kubernetes.resync(&key, task).await.expect_err("there is no image");
    assert_eq!(told.kind(), Kind::Timeout);
    for word in ["has not begun after 3 s", "1 pod pending: ImagePullBackOff (no such image)", "kubectl describe"] {
        assert!(told.chain().contains(word), "{word}: {}", told.chain());
    }
    drop(kubelet);
    let _kubelet = Kubelet::of_jobs(client.clone(), namespace, Fate::Succeed);
    let told = kubernetes.resync(&later(&key, 2), task).await;
    told.unwrap_or_else(|e| panic!("{}", e.chain()));
    no_job_is_left(client, namespace).await;
}

async fn takes_too_long(plane: &ControlPlane, client: &Client) {
    let namespace = "too-long";
    build(client, Form::Deployments, namespace).await;
    let _kubelet = Kubelet::of_jobs(client.clone(), namespace, Fate::Run);
    let kubernetes = within(plane, client, namespace, 60, 4);
    let told = kubernetes.resync(&run(1), ResyncTask::CacheFlush).await.expect_err("it does not end");
    assert_eq!(told.kind(), Kind::Timeout);
    for word in ["DeadlineExceeded", "1 pod running"] {
        assert!(told.chain().contains(word), "{word}: {}", told.chain());
    }
}

async fn is_deleted(plane: &ControlPlane, client: &Client) {
    let namespace = "deleted";
    build(client, Form::Deployments, namespace).await;
    let faulty = Faulty::new(client, Rule::Pass);
    let kubernetes = over(plane, &faulty.client, namespace);
    let key = run(1);
    let _kubelet = Kubelet::of_jobs(client.clone(), namespace, Fate::Run);
    let path = path_of(&key, namespace);
    let (told, ()) = tokio::join!(kubernetes.resync(&key, ResyncTask::CacheFlush), async {
        running(client, namespace).await;
        // First there was none; from the second on it was there.
        has_looked(&faulty, &path, 2).await;
        client.remove(&format!("{path}?propagationPolicy=Background")).await;
    });
    let told = told.expect_err("it was deleted");
    assert_eq!(told.kind(), Kind::Conflict);
    assert!(told.chain().contains("was deleted by somebody"), "{}", told.chain());
}
