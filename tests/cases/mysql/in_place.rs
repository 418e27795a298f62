//! Loads over the live data, for want of space.

use keepsake_core::error::Kind;

use super::faults::{client, filled};
use super::*;

#[tokio::test]
async fn a_load_in_place_that_fails_tells_no_row_and_can_be_made_again() {
    let server = filled(&[]).await;
    let (bytes, report) = dump(&server.engine()).await;
    let before = server.checksums("system").await;
    let text = String::from_utf8(bytes.clone()).unwrap();
    let engine = server.engine();
    // MariaDB's client prints the whole statement that fails, and some messages quote it.
    for (bad, number) in [
        ("(1,'one','canary-row')", "error 1136"),
        ("(1,'one' 'canary-row' canary)", "error 1064"),
        ("(2,'canary-row')", "error 1"),
    ] {
        let broken = text.replace("(1,'one')", bad);
        let (key, (cx, _)) = (key(), context());
        engine.stage(&key, Arc::new(InPlace(source(broken.as_bytes(), Some(&report)))), &cx).await.unwrap();
        let error = engine.commit(&key, &cx).await.unwrap_err();
        let text = told(&error);
        assert!(text.contains(number) && text.contains("at line ") && text.contains("incomplete now"), "{text}");
        assert_eq!(engine.rollback(&key, &cx).await.unwrap_err().kind(), Kind::Unsupported);
    }
    load(&engine, source(&bytes, Some(&report))).await.unwrap();
    assert_eq!(server.checksums("system").await, before);

    // The client says yes, but part is missing: counting finds it.
    let half = client(&server, "half", r#"sed '/^LOCK TABLES `small`/,/^UNLOCK/d' | "$real" "$@""#);
    let (key, (cx, _)) = (super::key(), context());
    half.stage(&key, Arc::new(InPlace(source(&bytes, Some(&report)))), &cx).await.unwrap();
    let error = half.commit(&key, &cx).await.unwrap_err();
    assert!(told(&error).contains("rows:small: the dump 2, the database 0"), "{}", error.chain());
    // The client ends without reading, and well.
    let lazy = client(&server, "lazy", "exit 0");
    lazy.stage(&key, Arc::new(InPlace(source(&bytes, Some(&report)))), &cx).await.unwrap();
    told(&lazy.commit(&key, &cx).await.unwrap_err());
    load(&engine, source(&bytes, Some(&report))).await.unwrap();
    assert_eq!(server.checksums("system").await, before);
}
