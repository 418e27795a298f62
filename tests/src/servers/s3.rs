//! An S3 server in this process: s3s-fs behind HTTP of our own, which can go wrong on purpose.
//!
//! s3s-fs checks `If-None-Match` and then writes, so that of 40 creates of one key 15 won (tried). Here writes of one key take turns, as on a
//! server that keeps its promise; [`Oddity::IgnoresIfNoneMatch`] is one that does not.

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use futures_util::{StreamExt, stream};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use s3s::access::{S3Access, S3AccessContext};
use s3s::auth::{S3Auth, SecretKey};
use s3s::dto::PutObjectInput;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s::{Body, S3Request, S3Result, s3_error};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::scratch::Scratch;

/// The bucket that is there from the start.
pub const BUCKET: &str = "backups";
/// A key that may do everything, and its secret.
pub const ADMIN: (&str, &str) = ("AKIDADMIN", "the-admin's-secret");

/// What an answer takes of a server that is far away.
const FAR: std::time::Duration = std::time::Duration::from_millis(300);

/// What a key may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rights {
    /// Everything.
    All,
    /// Put below this prefix of the bucket, and nothing else: no read, no list, no delete.
    Put(String),
    /// Get and list.
    Read,
}

/// What happens to one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mishap {
    /// 503 SlowDown; nothing was done.
    Throttled,
    /// 500 InternalError; nothing was done.
    Broken,
    /// 500 InternalError, after it was done.
    BrokenAfterwards,
    /// It was done; the connection is closed without an answer.
    AnswerLost,
    /// Nothing was done, and no answer comes.
    Stalls,
    /// The answer's body ends half way.
    BodyCut,
    /// The answer's body stops half way and the connection stays.
    BodyStalls,
    /// The answer's body comes in small pieces, each after a moment.
    Slow,
    /// It is done as it should, a moment later: the server is far away.
    Far,
}

/// How a server differs from the one we want.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Oddity {
    /// It does not.
    None,
    /// A conditional put overwrites.
    IgnoresIfNoneMatch,
}

/// Decides for each request: method, path with the bucket, and how many such (same method and path) came before.
pub type Plan = Box<dyn FnMut(&Method, &str, usize) -> Option<Mishap> + Send>;

#[derive(Default)]
struct Shared {
    keys: Mutex<HashMap<String, (String, Rights)>>,
    plan: Mutex<Option<Plan>>,
    seen: Mutex<Vec<(Method, String)>>,
    turns: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

/// A server that runs until it is dropped.
pub struct S3Server {
    address: SocketAddr,
    shared: Arc<Shared>,
    stop: CancellationToken,
    thread: Option<std::thread::JoinHandle<()>>,
    scratch: Scratch,
}

impl fmt::Debug for S3Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Server").field("address", &self.address).finish_non_exhaustive()
    }
}

impl S3Server {
    /// Starts one on a thread of its own, so that a test that waits for a child does not stop it.
    pub fn start(oddity: Oddity) -> Self {
        let scratch = Scratch::new();
        let root = scratch.folder("s3", 0o700);
        std::fs::create_dir(root.join(BUCKET)).expect("make the bucket");
        let shared = Arc::new(Shared::default());
        lock(&shared.keys).insert(ADMIN.0.to_owned(), (ADMIN.1.to_owned(), Rights::All));
        let service = {
            let mut builder = S3ServiceBuilder::new(s3s_fs::FileSystem::new(&root).expect("a folder"));
            builder.set_auth(Keys(shared.clone()));
            builder.set_access(Access { shared: shared.clone(), oddity });
            builder.build()
        };
        let stop = CancellationToken::new();
        let (told, address) = std::sync::mpsc::channel();
        let (for_thread, stopped) = (shared.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
            runtime.block_on(async move {
                let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
                told.send(listener.local_addr().expect("its number")).expect("somebody waits for it");
                stopped.run_until_cancelled(accept(listener, service, for_thread)).await;
            });
            runtime.shutdown_background();
        });
        let address = address.recv().expect("the server starts");
        Self { address, shared, stop, thread: Some(thread), scratch }
    }

    /// `http://127.0.0.1:port`
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The folder of a bucket's objects.
    pub fn objects(&self) -> PathBuf {
        self.scratch.path().join("s3").join(BUCKET)
    }

    /// Lets a key in, with these rights. Replaces what the key could do.
    pub fn admit(&self, key: &str, secret: &str, rights: Rights) {
        lock(&self.shared.keys).insert(key.to_owned(), (secret.to_owned(), rights));
    }

    /// Lets a key in no longer.
    pub fn expel(&self, key: &str) {
        lock(&self.shared.keys).remove(key);
    }

    /// From now on requests go wrong as the plan says.
    pub fn plan(&self, plan: impl FnMut(&Method, &str, usize) -> Option<Mishap> + Send + 'static) {
        *lock(&self.shared.plan) = Some(Box::new(plan));
    }

    /// From now on nothing goes wrong.
    pub fn recover(&self) {
        *lock(&self.shared.plan) = None;
    }

    /// Every request so far: method and path with the bucket.
    pub fn requests(&self) -> Vec<(Method, String)> {
        lock(&self.shared.seen).clone()
    }

    /// Writes a credentials file as AWS' tools have it.
    pub fn credentials(path: &Path, key: &str, secret: &str) {
        let text = format!("[default]\naws_access_key_id = {key}\naws_secret_access_key = {secret}\n");
        crate::certs::replace(path, &text, 0o600);
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the S3 server's thread");
        }
    }
}

async fn accept(listener: TcpListener, service: S3Service, shared: Arc<Shared>) {
    loop {
        let (socket, _) = listener.accept().await.expect("accept a connection");
        let (service, shared) = (service.clone(), shared.clone());
        tokio::spawn(async move {
            let answer = service_fn(move |request| answer(request, service.clone(), shared.clone()));
            // A caller that hangs up, or a connection that we break, is no failure of the server.
            let _ended =
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), answer).await;
        });
    }
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

async fn answer(
    request: Request<Incoming>,
    service: S3Service,
    shared: Arc<Shared>,
) -> Result<Response<Body>, Failure> {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let before = {
        let mut seen = lock(&shared.seen);
        let before = seen.iter().filter(|(m, p)| *m == method && *p == path).count();
        seen.push((method.clone(), path.clone()));
        before
    };
    let mishap = lock(&shared.plan).as_mut().and_then(|plan| plan(&method, &path, before));
    let failed = |status: u16, code: &str| {
        let xml = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>on purpose</Message></Error>");
        Ok(Response::builder().status(status).body(Body::from(xml)).expect("a response"))
    };
    match mishap {
        Some(Mishap::Throttled) => return failed(503, "SlowDown"),
        Some(Mishap::Broken) => return failed(500, "InternalError"),
        Some(Mishap::Stalls) => std::future::pending().await,
        Some(Mishap::Far) => tokio::time::sleep(FAR).await,
        _ => {}
    }
    let turn = if method == Method::PUT {
        let turn = lock(&shared.turns).entry(path).or_default().clone();
        Some(turn.lock_owned().await)
    } else {
        None
    };
    // Read whole first, as large servers do: to answer 412 and hang up while a body still comes looks like a broken connection.
    let (head, body) = request.into_parts();
    let body = Body::from(BodyExt::collect(body).await?.to_bytes());
    let response = service.call(Request::from_parts(head, body)).await?;
    drop(turn);
    match mishap {
        Some(Mishap::AnswerLost) => Err("the answer is lost on purpose".into()),
        Some(Mishap::BrokenAfterwards) => failed(500, "InternalError"),
        Some(mishap @ (Mishap::BodyCut | Mishap::BodyStalls | Mishap::Slow)) => misshapen(response, mishap).await,
        _ => Ok(response),
    }
}

/// An answer whose head is right and whose body is not.
async fn misshapen(response: Response<Body>, mishap: Mishap) -> Result<Response<Body>, Failure> {
    let (mut head, body) = response.into_parts();
    let whole = BodyExt::collect(body).await?.to_bytes();
    head.headers.insert("content-length", whole.len().into());
    let frame = |bytes: Bytes| Ok::<_, std::io::Error>(Frame::data(bytes));
    let half = whole.slice(..whole.len() / 2);
    let body = match mishap {
        Mishap::BodyCut => {
            let cut = Err(std::io::Error::other("cut on purpose"));
            Body::http_body(StreamBody::new(stream::iter([frame(half), cut])))
        }
        Mishap::BodyStalls => Body::http_body(StreamBody::new(stream::iter([frame(half)]).chain(stream::pending()))),
        _ => {
            let pieces: Vec<_> = whole.chunks(whole.len() / 8 + 1).map(Bytes::copy_from_slice).collect();
            let pieces = stream::iter(pieces).then(move |piece| async move {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                frame(piece)
            });
            Body::http_body(StreamBody::new(Box::pin(pieces)))
        }
    };
    Ok(Response::from_parts(head, body))
}

struct Keys(Arc<Shared>);

#[async_trait]
impl S3Auth for Keys {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        match lock(&self.0.keys).get(access_key) {
            Some((secret, _)) => Ok(SecretKey::from(secret.clone())),
            None => Err(s3_error!(InvalidAccessKeyId)),
        }
    }
}

struct Access {
    shared: Arc<Shared>,
    oddity: Oddity,
}

#[async_trait]
impl S3Access for Access {
    async fn check(&self, cx: &mut S3AccessContext<'_>) -> S3Result<()> {
        let key = cx.credentials().map(|c| c.access_key.clone()).unwrap_or_default();
        let rights = lock(&self.shared.keys).get(&key).map(|(_, rights)| rights.clone());
        let operation = cx.s3_op().name();
        let object = cx.s3_path().as_object().map(|(_, key)| key.to_owned()).unwrap_or_default();
        let allowed = match rights {
            Some(Rights::All) => true,
            Some(Rights::Put(prefix)) => operation == "PutObject" && object.starts_with(&prefix),
            Some(Rights::Read) => {
                operation.starts_with("Get") || operation.starts_with("List") || operation.starts_with("Head")
            }
            None => false,
        };
        if allowed { Ok(()) } else { Err(s3_error!(AccessDenied, "{key} may not {operation} {object}")) }
    }

    async fn put_object(&self, request: &mut S3Request<PutObjectInput>) -> S3Result<()> {
        if self.oddity == Oddity::IgnoresIfNoneMatch {
            request.input.if_none_match = None;
        }
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
