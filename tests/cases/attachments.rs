//! Rows of the system database whose file is not in the set: told by the database's agent, looked for among what the agent of the files has dumped.

use keepsake_agent::engine::Context;
use keepsake_core::attachments::RowsWithoutFile;
use keepsake_tests::house::House;
use keepsake_tests::memory::MemorySink;
use keepsake_tests::stand::{Files, Mysql, Stand};
use keepsake_tests::threescale::{Size, storage};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

/// What a dump tells, in order of paths.
async fn told(stand: &impl Stand, scratch: &std::path::Path) -> Option<Vec<(String, String)>> {
    let (cx, _) = Context::new(CancellationToken::new());
    let cx = cx.keeping_paths(scratch);
    let report =
        stand.engine().dump(None, &MemorySink::default(), &cx).await.unwrap_or_else(|e| panic!("{}", e.chain()));
    let kept = cx.paths.finish().unwrap_or_else(|e| panic!("{}", e.chain()));
    let counted = report.facts.get(keepsake_core::attachments::ATTACHMENTS);
    let kept = kept?;
    let (mut at, mut all) = (0, Vec::new());
    loop {
        let some = kept.read(&mut at, 100).unwrap();
        if some.is_empty() {
            break;
        }
        all.extend(some.into_iter().map(|(path, row)| (path.escape_ascii().to_string(), row)));
    }
    all.sort();
    if let Some(counted) = counted {
        assert_eq!(counted, &all.len().to_string());
    }
    Some(all)
}

fn expected() -> Vec<(String, String)> {
    let escaped = |path: &str| path.as_bytes().escape_ascii().to_string();
    let mut all: Vec<_> = storage::ATTACHMENTS.map(|(path, row)| (escaped(path), row.to_owned())).into();
    all.sort();
    all
}

#[tokio::test]
async fn a_dump_of_the_system_database_tells_the_files_that_its_rows_name() {
    let scratch = keepsake_tests::scratch::Scratch::new();
    let stand = Mysql::start().await;
    // Another database tells nothing.
    assert_eq!(told(&stand, scratch.path()).await, None);
    stand.fill().await;
    assert_eq!(told(&stand, scratch.path()).await, Some(expected()));
    assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0, "the list is left");
}

#[tokio::test]
async fn a_dump_of_files_tells_every_name_but_those_of_folders() {
    let scratch = keepsake_tests::scratch::Scratch::new();
    let stand = Files::start();
    assert_eq!(told(&stand, scratch.path()).await, Some(Vec::new()));
    stand.fill().await;
    let all = told(&stand, scratch.path()).await.unwrap();
    let wanted: Vec<_> = expected().into_iter().map(|(path, _)| (path, String::new())).collect();
    assert!(wanted.iter().all(|path| all.contains(path)), "{all:?}");
    for name in ["dangling", "hard", "tenant/2020/02/02/not-utf8-\\xff\\xfe.css"] {
        assert!(all.contains(&(name.to_owned(), String::new())), "{name}: {all:?}");
    }
    let manifest = keepsake_tests::manifest::Manifest::of(stand.root());
    assert_eq!(all.len() as u64, manifest.count('f') + manifest.count('l'));
}

/// Backs up, with more arguments; gives what the record says of rows without their file, and what `show` prints.
fn backup(house: &House, more: &[&str], status: i32) -> (Value, String) {
    let done = house.keepsake(&[&["--output", "json", "backup"], more].concat());
    assert_eq!(done.status.code(), Some(status), "{}", String::from_utf8_lossy(&done.stderr));
    let made: Value = serde_json::from_slice(&done.stdout).expect("JSON");
    let set = made[0]["set"].as_str().expect("a set").to_owned();
    let record = house.must_json(&["show", &set]);
    (record["rows_without_file"].clone(), house.must(&["show", &set]))
}

#[tokio::test]
async fn installation_rows_without_their_file_are_in_the_record() {
    let mut house = House::new(&["prod"], Size::TINY).await;
    let (found, shown) = backup(&house, &[], 0);
    assert_eq!(found, json!({ "total": 0, "rows": [] }));
    assert!(shown.contains("0 rows name a file that is not in the set"), "{shown}");

    let storage = house.installations[0].storage.clone();
    std::fs::remove_file(storage.join("tenant/invoices/2/pdfs/original/invoice-2.pdf")).unwrap();
    // A folder of that name is no file.
    std::fs::remove_file(storage.join("tenant/2/profiles/logos/original/logo.png")).unwrap();
    std::fs::create_dir(storage.join("tenant/2/profiles/logos/original/logo.png")).unwrap();
    let more = "INSERT INTO `system`.cms_files VALUES (70, 2, '2021-03-04 23:59:59', 'lost.css', '0123456789abcdef', '/lost.css', NULL, 2)";
    house.installations[0].mysql.run(&[more]).await;
    for consistency in ["    consistency: required\n", "    consistency: none\n"] {
        house.consistency = consistency.to_owned();
        house.write_topology();
        let (found, shown) = backup(&house, &[], 0);
        let row = |path: &str, row: &str| json!({ "path": path, "row": row });
        let rows = [
            row("tenant/2/profiles/logos/original/logo.png", "profiles 1"),
            row("tenant/2021/03/04/lost-0123456789abcdef.css", "cms_files 70"),
            row("tenant/invoices/2/pdfs/original/invoice-2.pdf", "invoices 2"),
        ];
        assert_eq!(found, json!({ "total": 3, "rows": rows }), "{consistency}");
        for word in ["3 rows name a file", "cms_files 70", "tenant/2021/03/04/lost-0123456789abcdef.css"] {
            assert!(shown.contains(word), "{word}: {shown}");
        }
    }

    // A provider whose folder cannot be told makes the list incomplete, and that is said.
    house.installations[0]
        .mysql
        .run(&["INSERT INTO `system`.accounts (id, provider, created_at, s3_prefix) VALUES (9, 1, NOW(), 'größe')"])
        .await;
    house.installations[0].mysql.run(&["INSERT INTO `system`.profiles VALUES (9, 9, 'logo.png', 9)"]).await;
    let (found, _) = backup(&house, &[], 0);
    assert_eq!(found["total"], 3);
    assert!(found["unknown"].as_str().unwrap().contains("the files of 1 rows"), "{found}");

    // Where the set has not both, nothing is said.
    let (found, _) = backup(&house, &["--component", "system-mysql"], 0);
    assert_eq!(found, Value::Null);
    let (found, _) = backup(&house, &["--component", "system-storage"], 0);
    assert_eq!(found, Value::Null);
    let files = house.installations[0].agents.iter().position(|a| a.component == "system-storage").unwrap();
    drop(house.installations[0].agents.remove(files));
    house.write_topology();
    let (found, shown) = backup(&house, &[], 0);
    assert_eq!(found, Value::Null, "files are kept elsewhere");
    assert!(!shown.contains("without file"), "{shown}");
}

#[test]
fn old_records_and_new_ones_are_read() {
    let old: Option<RowsWithoutFile> = serde_json::from_value(Value::Null).unwrap();
    assert_eq!(old, None);
    let new: RowsWithoutFile = serde_json::from_value(json!({ "total": 2, "rows": [], "of later": 1 })).unwrap();
    assert_eq!((new.total, new.unknown), (2, None));
}
