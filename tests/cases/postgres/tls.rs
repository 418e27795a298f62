//! TLS to the server, by the agent and by the tools.

use std::os::unix::fs::PermissionsExt;

use keepsake_core::error::Error;
use keepsake_tests::certs::Authority;
use keepsake_tests::child::give_to_servers;
use keepsake_tests::root::Root;
use keepsake_tests::scratch::Scratch;

use super::*;

/// A server that lets zync in by TLS only, and everybody by its socket.
struct Secured {
    server: PostgresServer,
    folder: Scratch,
}

impl Secured {
    async fn start() -> Self {
        let folder = Scratch::new();
        let file = |name: &str| folder.path().join(name);
        let made = Authority::new("ca").issue(&file("server"), "localhost");
        std::fs::copy(&made.ca, file("ca.pem")).unwrap();
        std::fs::copy(Authority::new("ca").issue(&file("other"), "localhost").ca, file("other.pem")).unwrap();
        std::fs::write(
            file("hba"),
            "local all all scram-sha-256\nhost all postgres 127.0.0.1/32 scram-sha-256\nhostssl all zync 127.0.0.1/32 scram-sha-256\n",
        )
        .unwrap();
        give_to_servers(&file("server"));
        let settings = [
            "ssl=on".to_owned(),
            format!("ssl_cert_file={}", made.cert.display()),
            format!("ssl_key_file={}", made.key.display()),
            format!("hba_file={}", file("hba").display()),
        ];
        let server = PostgresServer::start_with(&Root::host(), &settings).await;
        owned(&server, "zync", DATABASE).await;
        server.run_as("zync", DATABASE, &zync::statements(1, Size::TINY)).await;
        Self { server, folder }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn settings(&self, host: &str, ca: Option<&str>) -> Settings {
        Settings {
            postgres_host: host.to_owned(),
            postgres_ca_file: ca.map(|name| self.file(name)),
            ..settings(&self.server, "zync")
        }
    }

    async fn refused(&self, settings: Settings) -> Error {
        let engine = settings.open(PathBuf::new()).unwrap();
        let described = engine.describe().await.expect_err("it was let in");
        let sink = MemorySink::default();
        assert_eq!(engine.dump(None, &sink, &context()).await.unwrap_err().kind(), described.kind());
        assert!(!described.chain().contains("canary"), "{}", described.chain());
        described
    }
}

#[tokio::test]
async fn agent_and_tools_take_only_the_server_whose_certificate_fits() {
    let secured = Secured::start().await;
    let server = &secured.server;
    // The tools must verify for themselves: pg_hba.conf would let in one that does not.
    let tools = secured.folder.folder("tools", 0o755);
    for tool in ["pg_dump", "pg_restore", "psql"] {
        let script = format!(
            "#!/bin/sh\n[ \"$PGSSLMODE $PGSSLROOTCERT $PGGSSENCMODE\" = 'verify-full {} disable' ] || {{ echo 'error: not verified' >&2; exit 9; }}\n\
             exec {} \"$@\"\n",
            secured.file("ca.pem").display(),
            programs().join(tool).display()
        );
        std::fs::write(tools.join(tool), script).unwrap();
        std::fs::set_permissions(tools.join(tool), std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let mut rows = server.digests(DATABASE).await;
    rows.insert("public.que_lockers".to_owned(), "0 ".to_owned());
    let over_tls = Settings { postgres_bin_dir: Some(tools), ..secured.settings("localhost", Some("ca.pem")) };
    let engine = over_tls.open(server.scratch().to_owned()).unwrap();
    assert_eq!(engine.describe().await.unwrap_or_else(|e| panic!("{}", e.chain())).problems, Vec::<String>::new());
    let (report, archive) = dump(&engine).await;
    server.run_as("zync", DATABASE, &zync::wreck()).await;
    restore(&engine, source(report, archive)).await.unwrap_or_else(|e| panic!("{}", e.chain()));
    assert_eq!(server.digests(DATABASE).await, rows);

    for (host, ca) in [("localhost", "other.pem"), ("127.0.0.1", "ca.pem")] {
        let refused = secured.refused(secured.settings(host, Some(ca))).await;
        assert_eq!(refused.kind(), Kind::Unavailable, "{}", refused.chain());
        assert!(refused.chain().contains("certificate"), "{}", refused.chain());
    }
    let plain = secured.refused(secured.settings("localhost", None)).await;
    assert!(plain.kind() == Kind::Denied && plain.chain().contains("--postgres-ca-file"), "{}", plain.chain());
    let absent = secured.refused(secured.settings("localhost", Some("absent.pem"))).await;
    assert!(absent.kind() == Kind::NotFound && absent.chain().contains("--postgres-ca-file"), "{}", absent.chain());
    std::fs::write(secured.file("empty.pem"), "nothing").unwrap();
    let empty = secured.refused(secured.settings("localhost", Some("empty.pem"))).await;
    assert!(empty.kind() == Kind::Invalid && empty.chain().contains("--postgres-ca-file"), "{}", empty.chain());
    // In a socket there is no TLS, and none is needed.
    let socket = secured.settings(server.sockets().to_str().unwrap(), Some("ca.pem")).open(PathBuf::new()).unwrap();
    dump(&socket).await;
}

#[tokio::test]
async fn a_server_that_offers_no_tls_gets_no_password() {
    let server = zync_server().await;
    let folder = Scratch::new();
    let ca = Authority::new("ca").issue(folder.path(), "localhost").ca;
    let engine =
        Settings { postgres_host: "localhost".to_owned(), postgres_ca_file: Some(ca), ..settings(&server, "zync") };
    let refused = engine.open(PathBuf::new()).unwrap().describe().await.err().unwrap();
    assert!(refused.chain().contains("TLS"), "{:?} {}", refused.kind(), refused.chain());
}

#[test]
fn another_machine_needs_certificates_or_a_word() {
    let far = |change: &dyn Fn(&mut Settings)| {
        let mut settings = Settings { postgres_host: "db.example".to_owned(), ..Settings::default() };
        change(&mut settings);
        settings.open(PathBuf::new())
    };
    let refused = far(&|_| {}).err().expect("plaintext to another machine");
    assert!(refused.kind() == Kind::Invalid && refused.chain().contains("--postgres-insecure"), "{}", refused.chain());
    far(&|s| s.postgres_insecure = true).unwrap();
    far(&|s| s.postgres_ca_file = Some("ca.pem".into())).unwrap();
    for here in ["localhost", "127.0.0.1", "::1", "/var/run/postgresql"] {
        far(&|s| here.clone_into(&mut s.postgres_host)).unwrap();
    }
}
