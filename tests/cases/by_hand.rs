//! Everything comes back with standard tools alone, following the page that lies in the repository.

use keepsake_tests::by_hand::{self, REDIS, STORAGE, SYSTEM_MYSQL, ZYNC};
use keepsake_tests::house::{COMPONENTS, House, State, files_below};
use keepsake_tests::servers::postgres;
use keepsake_tests::threescale::Size;

#[tokio::test]
async fn installation_comes_back_by_hand() {
    let mut house = House::new(&["prod"], Size::TINY).await;
    house.must(&["backup"]);
    let before = State::of(&house.installations[0]).await;
    house.installations[0].wreck().await;
    let wrecked = State::of(&house.installations[0]).await;
    for component in COMPONENTS {
        assert!(!wrecked.differences(&before, component).is_empty(), "{component} was not wrecked");
    }

    let mysql = &house.installations[0].mysql;
    let client = by_hand::mysql_client(&house, mysql.port(), &mysql.password_file());
    by_hand::restore(&house, "prod", SYSTEM_MYSQL, &[("CLIENT", client)]).unwrap();

    let zync = &house.installations[0].zync;
    let password = std::fs::read_to_string(zync.password_file()).unwrap();
    let passfile = house.scratch.path().join("pgpass");
    std::fs::write(&passfile, format!("*:*:*:*:{}\n", password.trim_end().replace('\\', "\\\\").replace(':', "\\:")))
        .unwrap();
    std::fs::set_permissions(&passfile, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let variables = [
        ("PGHOST", "127.0.0.1".to_owned()),
        ("PGPORT", zync.port().to_string()),
        ("PGUSER", "postgres".to_owned()),
        ("PGPASSFILE", passfile.display().to_string()),
        ("PG_BIN", postgres::programs().display().to_string()),
    ];
    // Agents keep no connection open between operations, or DROP DATABASE would be refused here.
    by_hand::restore(&house, "prod", ZYNC, &variables).unwrap();

    let storage = house.installations[0].storage.display().to_string();
    by_hand::restore(&house, "prod", STORAGE, &[("STORAGE", storage)]).unwrap();

    for name in ["backend-redis", "system-redis"] {
        let server = match name {
            "backend-redis" => &mut house.installations[0].backend,
            _ => &mut house.installations[0].system_redis,
        };
        server.kill9();
        let data = server.data().display().to_string();
        by_hand::restore(&house, "prod", REDIS, &[("REDIS", name.to_owned()), ("REDIS_DATA", data)]).unwrap();
        let server = match name {
            "backend-redis" => &mut house.installations[0].backend,
            _ => &mut house.installations[0].system_redis,
        };
        server.restart_with(&["--appendonly", "no"]).await;
    }
    State::of(&house.installations[0]).await.assert_is(&before, "after the restore by hand");
}

/// With a cut system-mysql is in several artifacts, without one in a single one: the same page serves both.
#[tokio::test]
async fn installation_comes_back_by_hand_from_one_stream() {
    let mut house = House::new(&["prod"], Size::TINY).await;
    let names = |house: &House| -> Vec<String> {
        let done = house.must_json(&["backup"]);
        let record = house.must_json(&["show", done[0]["set"].as_str().expect("a set")]);
        let components = record["components"].as_array().expect("components");
        let mysql = components.iter().find(|c| c["component"] == "system-mysql").expect("system-mysql");
        let artifacts = mysql["dump"]["artifacts"].as_array().expect("artifacts");
        artifacts.iter().map(|a| a["artifact"].as_str().expect("a name").to_owned()).collect()
    };
    let with_a_cut = names(&house);
    assert!(
        with_a_cut.iter().any(|n| n == "data-1.sql") && with_a_cut.iter().any(|n| n == "objects.sql"),
        "{with_a_cut:?}"
    );
    house.consistency = "    consistency: none\n".to_owned();
    house.write_topology();
    assert_eq!(names(&house), ["dump.sql"]);
    let before = State::of(&house.installations[0]).await;
    house.installations[0].wreck().await;
    let mysql = &house.installations[0].mysql;
    let client = by_hand::mysql_client(&house, mysql.port(), &mysql.password_file());
    by_hand::restore(&house, "prod", SYSTEM_MYSQL, &[("CLIENT", client)]).unwrap();
    let now = State::of(&house.installations[0]).await;
    assert!(now.differences(&before, "system-mysql").is_empty(), "{:?}", now.differences(&before, "system-mysql"));
}

#[tokio::test]
async fn installation_by_hand_refuses_what_is_not_the_backup() {
    let house = House::new(&["prod"], Size::TINY).await;
    house.must(&["backup"]);
    let target = house.scratch.folder("restored", 0o700).display().to_string();
    let restore = || by_hand::restore(&house, "prod", STORAGE, &[("STORAGE", target.clone())]);
    restore().unwrap();

    let find = |end: &str| {
        files_below(&house.repository()).into_iter().find(|p| p.display().to_string().contains(end)).expect("an object")
    };
    for (object, what) in [
        ("/segments/system-storage/", "a segment"),
        ("record.json", "the record"),
        ("record.sig", "the signature"),
        ("keepsake.json", "the initial keys"),
    ] {
        let path = find(object);
        let good = std::fs::read(&path).unwrap();
        let mut bad = good.clone();
        if object == "keepsake.json" {
            // A stranger's key in place of the trusted one.
            let text = String::from_utf8_lossy(&good);
            let at = text.find("MCowBQYDK2VwAyEA").unwrap() + 20;
            bad[at] = if bad[at] == b'A' { b'B' } else { b'A' };
        } else {
            let middle = bad.len() / 2;
            bad[middle] ^= 1;
        }
        std::fs::write(&path, bad).unwrap();
        std::fs::remove_dir_all(&target).unwrap();
        std::fs::create_dir(&target).unwrap();
        assert!(restore().is_err(), "{what} was damaged, and nobody noticed");
        assert_eq!(files_below(target.as_ref()).len(), 0, "{what} was damaged, and something was restored");
        std::fs::write(&path, good).unwrap();
    }
    restore().unwrap();
}
