//! Credentials change while we run: a file that is replaced, a token that is renewed. And what an agent's own may do.

use std::sync::{Arc, Mutex};

use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use keepsake_core::error::Kind;
use keepsake_core::repository::seal::SetKey;
use keepsake_core::repository::{S3Settings, Store, WebIdentity};
use keepsake_tests::certs::{Authority, replace};
use keepsake_tests::poll::wait_for;
use keepsake_tests::s3::{impatient, open, place, read, write};
use keepsake_tests::scratch::Scratch;
use keepsake_tests::servers::s3::{ADMIN, BUCKET, Oddity, Rights, S3Server};
use tokio::net::TcpListener;

#[tokio::test]
async fn s3_credentials_are_read_again_from_their_file() {
    let (server, scratch) = (S3Server::start(Oddity::None), Scratch::new());
    let file = scratch.path().join("credentials");
    server.admit("AKIDONE", "first-secret", Rights::All);
    S3Server::credentials(&file, "AKIDONE", "first-secret");
    let store = impatient(open(&server.endpoint(), &file));
    let (place, key) = (place(), SetKey::generate());
    let record = write(&store, &place, &key).await.expect("with the first");

    server.expel("AKIDONE");
    server.admit("AKIDTWO", "second-secret", Rights::All);
    let refused = write(&store, &place, &key).await.expect_err("with credentials that are no longer good");
    assert_eq!(refused.kind(), Kind::Denied, "{}", refused.chain());
    assert!(!refused.chain().contains("first-secret"), "{}", refused.chain());

    S3Server::credentials(&file, "AKIDTWO", "second-secret");
    write(&store, &place, &key).await.expect("with the second");
    read(&store, &place, &key, &record).await.expect("read with the second");

    std::fs::remove_file(&file).expect("take the file away");
    let refused = write(&store, &place, &key).await.expect_err("without credentials");
    assert!(refused.chain().contains("credentials"), "{}", refused.chain());
}

#[tokio::test]
async fn s3_credentials_that_may_only_put_are_enough_to_back_up() {
    let (server, scratch) = (S3Server::start(Oddity::None), Scratch::new());
    let (put, get) = (scratch.path().join("put"), scratch.path().join("get"));
    server.admit("AKIDPUT", "put-secret", Rights::Put("some/place/sets/prod/".into()));
    server.admit("AKIDGET", "get-secret", Rights::Read);
    S3Server::credentials(&put, "AKIDPUT", "put-secret");
    S3Server::credentials(&get, "AKIDGET", "get-secret");
    let (put, get) = (impatient(open(&server.endpoint(), &put)), impatient(open(&server.endpoint(), &get)));
    let (place, key) = (place(), SetKey::generate());
    let record = write(&put, &place, &key).await.expect("write");
    assert_eq!(read(&put, &place, &key, &record).await.expect_err("may only put").kind(), Kind::Denied);
    assert_eq!(write(&get, &place, &key).await.expect_err("may only read").kind(), Kind::Denied);
    read(&get, &place, &key, &record).await.expect("read");
    let other = keepsake_core::repository::writer::Place {
        installation: keepsake_core::id::Installation::new("other").expect("a name"),
        ..place
    };
    assert_eq!(write(&put, &other, &key).await.expect_err("another installation").kind(), Kind::Denied);
}

/// What the token service was asked, and what it answers next: a key that it has admitted.
type Exchanges = Arc<Mutex<Vec<String>>>;

/// A token service over TLS. Each exchange gives a new key, good for so many seconds.
async fn token_service(
    scratch: &Scratch,
    server: Arc<S3Server>,
    seconds: i64,
) -> (String, std::path::PathBuf, Exchanges) {
    let files = Authority::new("sts").issue(&scratch.path().join("sts"), "localhost");
    let certs: Vec<_> = rustls::pki_types::pem::PemObject::pem_file_iter(&files.cert)
        .expect("certificates")
        .collect::<Result<_, _>>()
        .expect("certificates");
    let key = rustls::pki_types::pem::PemObject::from_pem_file(&files.key).expect("a key");
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(certs, key)
        .expect("a configuration");
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let endpoint = format!("https://localhost:{}", listener.local_addr().expect("its number").port());
    let exchanges = Exchanges::default();
    let asked = exchanges.clone();
    tokio::spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.expect("accept");
            let Ok(socket) = acceptor.accept(socket).await else { continue };
            let (asked, server) = (asked.clone(), server.clone());
            let answer = service_fn(move |request: Request<hyper::body::Incoming>| {
                let query = request.uri().query().unwrap_or_default().to_owned();
                let mut asked = asked.lock().expect("a list");
                asked.push(query);
                let (key, secret) = (format!("ASIA{}", asked.len()), format!("secret-{}", asked.len()));
                server.admit(&key, &secret, Rights::All);
                let until = keepsake_core::clock::now() + jiff::SignedDuration::from_secs(seconds);
                let xml = format!(
                    "<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>{key}</AccessKeyId>\
                     <SecretAccessKey>{secret}</SecretAccessKey><SessionToken>a-session</SessionToken><Expiration>{until}</Expiration>\
                     </Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>"
                );
                std::future::ready(Ok::<_, std::convert::Infallible>(Response::new(s3s::Body::from(xml))))
            });
            tokio::spawn(async move {
                // A caller that hangs up is no failure of the service.
                let _ended =
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), answer).await;
            });
        }
    });
    (endpoint, files.ca, exchanges)
}

#[tokio::test]
async fn s3_web_identity_is_exchanged_and_its_token_read_again() {
    let (server, scratch) = (Arc::new(S3Server::start(Oddity::None)), Scratch::new());
    // So short that each request needs a new exchange.
    let (sts, ca, exchanges) = token_service(&scratch, server.clone(), 60).await;
    let token = scratch.path().join("token");
    replace(&token, "token-one", 0o600);
    let settings = S3Settings {
        endpoint: Some(server.endpoint()),
        web_identity: Some(WebIdentity {
            role_arn: "arn:aws:iam::1:role/keepsake".into(),
            token_file: token.clone(),
            sts_endpoint: Some(sts),
        }),
        ca: Some(ca),
        ..S3Settings::default()
    };
    let store = impatient(Store::open_with(&format!("s3://{BUCKET}"), &settings).expect("a store"));
    server.expel(ADMIN.0);
    store.ensure("runs/1", &"{}".into()).await.expect("create with the first token");
    replace(&token, "token-two", 0o600);
    // For a tenth of a second after an exchange object_store makes no other one.
    let asked = wait_for("an exchange of the second token", std::time::Duration::from_secs(10), async || {
        store.find("runs/1").await.expect("read");
        let asked = exchanges.lock().expect("a list").clone();
        if asked.last().is_some_and(|q| q.contains("token-two")) { Ok(asked) } else { Err(format!("{asked:?}")) }
    })
    .await;
    assert!(asked[0].contains("token-one"), "{asked:?}");
    assert!(asked.iter().all(|q| q.contains("AssumeRoleWithWebIdentity") && q.contains("keepsake")), "{asked:?}");
}
