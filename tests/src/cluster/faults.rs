//! A client between which and the API server something goes wrong: writes are counted, and a rule says what becomes of each.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use hyper::{Method, Request};
use kube::Client;
use kube::client::Body;
use serde_json::json;
use tokio::sync::Notify;

use super::Raw;

/// What becomes of writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// They pass.
    Pass,
    /// Before the write of this number, counted from 1, whoever writes is gone: the write is not made, and no answer comes to anything any more.
    DieBefore(usize),
    /// Every write is made, and the answer to the first of each object is lost.
    LoseAnswers,
    /// Before the first write to an object, and before every second one from then on, somebody else writes to it.
    Conflict,
    /// Whatever is written to a path that ends so is answered as if it were written, and is not.
    Swallow(&'static str),
}

/// A client with a rule.
#[derive(Clone)]
pub struct Faulty {
    /// To be used in the place of the other.
    pub client: Client,
    writes: Arc<Mutex<Vec<String>>>,
    reads: Arc<Mutex<Vec<String>>>,
    gone: Arc<Notify>,
}

impl std::fmt::Debug for Faulty {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Faulty").field("writes", &self.writes).finish_non_exhaustive()
    }
}

impl Faulty {
    /// Over this client.
    pub fn new(inner: &Client, rule: Rule) -> Self {
        let (writes, reads) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(Vec::new())));
        let gone = Arc::new(Notify::new());
        let struck = Arc::new(Mutex::new(BTreeSet::new()));
        let number = Arc::new(AtomicUsize::new(0));
        let (inner, seen, told) = (inner.clone(), writes.clone(), gone.clone());
        let asked: Arc<Mutex<Vec<String>>> = reads.clone();
        let service = tower::service_fn(move |mut request: Request<Body>| {
            let (inner, seen, told) = (inner.clone(), seen.clone(), told.clone());
            let (struck, number, asked) = (struck.clone(), number.clone(), asked.clone());
            async move {
                let method = request.method().clone();
                let dies = |n: usize| matches!(rule, Rule::DieBefore(at) if n >= at);
                let path = request.uri().path().to_owned();
                // A review of what is allowed changes nothing, nor does what is only tried.
                let is_tried = request.uri().query().is_some_and(|q| q.contains("dryRun"));
                let is_read = method == Method::GET || path.ends_with("reviews") || is_tried;
                if is_read {
                    if dies(number.load(Ordering::SeqCst)) {
                        std::future::pending::<()>().await;
                    }
                    asked.lock().expect("the reads").push(path);
                    return inner.send(request).await;
                }
                let n = number.fetch_add(1, Ordering::SeqCst) + 1;
                if dies(n) {
                    told.notify_one();
                    std::future::pending::<()>().await;
                }
                seen.lock().expect("the writes").push(path.clone());
                let strike = || {
                    let mut struck = struck.lock().expect("what was struck");
                    struck.insert(path.clone()) || !struck.remove(&path)
                };
                match rule {
                    // Whoever deletes is answered with what is there, and a query would not count beside a body.
                    Rule::Swallow(end) if path.ends_with(end) && method == Method::DELETE => {
                        let look = Request::get(request.uri()).body(Body::empty()).expect("a request");
                        inner.send(look).await
                    }
                    Rule::Swallow(end) if path.ends_with(end) => {
                        let uri = request.uri().to_string();
                        let more = if uri.contains('?') { '&' } else { '?' };
                        *request.uri_mut() = format!("{uri}{more}dryRun=All").parse().expect("a URI");
                        inner.send(request).await
                    }
                    // What is made has nobody that could write to it before.
                    Rule::Conflict if method != Method::POST && strike() => {
                        inner
                            .merge(&path, json!({ "metadata": { "annotations": { "somebody": n.to_string() } } }))
                            .await;
                        inner.send(request).await
                    }
                    Rule::LoseAnswers if strike() => {
                        inner.send(request).await?;
                        Err(kube::Error::Service("the answer is lost".into()))
                    }
                    Rule::Pass | Rule::DieBefore(_) | Rule::LoseAnswers | Rule::Conflict | Rule::Swallow(_) => {
                        inner.send(request).await
                    }
                }
            }
        });
        Self { client: Client::new(service, "default"), writes, reads, gone }
    }

    /// The paths that were written to, in order.
    pub fn writes(&self) -> Vec<String> {
        self.writes.lock().expect("the writes").clone()
    }

    /// How often it was looked at what is at this path. Whoever looks one after another has been answered to all of these but the last.
    pub fn looks(&self, path: &str) -> usize {
        self.reads.lock().expect("the reads").iter().filter(|read| *read == path).count()
    }

    /// Does the work up to its end, or up to where whoever does it is gone: then none.
    pub async fn mortal<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            done = work => Some(done),
            () = self.gone.notified() => None,
        }
    }
}
