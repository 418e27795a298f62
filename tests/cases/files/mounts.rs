//! Other filesystems in and under the volume. These run themselves again where they may mount: in a namespace of their own,
//! so that nothing of it outlives them.

use std::path::PathBuf;
use std::sync::Arc;

use keepsake_core::error::Kind;
use keepsake_tests::own_mounts::{may_mount, mount, unmount};

use super::{Volume, context, names, run};

#[tokio::test]
async fn mounts_in_the_volume_are_left_alone_or_refused() {
    if !may_mount("files::mounts::mounts_in_the_volume_are_left_alone_or_refused") {
        return;
    }
    let volume = Volume::new();
    volume.write("file", "from the set");
    volume.write("folder/file", "from the set");
    let top: PathBuf = volume.root.join("mounted");
    mount(&top, "1m");
    volume.write("mounted/of-another", "x");
    let (report, source) = volume.dump().await;
    assert_eq!((report.counts["files"], report.counts["directories"]), (2, 1));
    assert_eq!(report.warnings, ["\"mounted\" belongs to the filesystem or is another one, and was not stored"]);
    volume.write("file", "later");
    volume.load(source.clone()).await;
    assert_eq!(names(&volume.root), ["file", "folder", "mounted"]);
    assert_eq!(names(&top), ["of-another"]);

    // One that would be moved with its folder, and then deleted with it.
    let deep = volume.root.join("folder/below/mounted");
    mount(&deep, "1m");
    std::fs::write(deep.join("of-another"), "x").unwrap();
    let error = volume.engine.stage(&run(), Arc::new(source), &context()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Conflict);
    assert!(error.chain().contains("\"folder/below/mounted\": unmount it"), "{}", error.chain());
    let problems = volume.engine.describe().await.unwrap().problems;
    assert!(problems[0].contains("folder/below/mounted"), "{problems:?}");
    let (report, _) = volume.dump().await;
    assert_eq!(report.warnings.len(), 2, "{:?}", report.warnings);
    unmount(&deep);
    unmount(&top);
}

#[tokio::test]
async fn a_set_that_does_not_fit_is_refused_with_figures() {
    if !may_mount("files::mounts::a_set_that_does_not_fit_is_refused_with_figures") {
        return;
    }
    let mut volume = Volume::new();
    mount(&volume.root, "4m");
    volume.engine = super::open(&volume.root, true, volume.scratch.path());
    let description = volume.engine.describe().await.unwrap();
    assert_eq!(description.facts["filesystem"], "tmpfs");
    volume.write("live", vec![1; 1_000_000]);
    assert!(volume.engine.describe().await.unwrap().size >= 1_000_000);
    let other = Volume::new();
    other.write("large", vec![2; 2_000_000]);
    let (_, fits) = other.dump().await;
    other.write("larger", vec![3; 2_000_000]);
    let (_, large) = other.dump().await;

    let before = volume.manifest();
    let error = volume.engine.stage(&run(), Arc::new(large.clone()), &context()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Busy);
    assert!(error.chain().contains("bytes free and the load needs about 4"), "{}", error.chain());

    // Filled up in the middle of a stage, by somebody else: as here by the set, which is larger than its record says.
    let mut liar = fits.clone();
    let other_set = large.artifacts.clone();
    liar.artifacts = other_set;
    let error = volume.engine.stage(&run(), Arc::new(liar), &context()).await.unwrap_err();
    assert!(error.chain().contains("make room"), "{}", error.chain());
    assert_eq!(volume.leftovers(), Vec::<String>::new());
    volume.manifest().assert_is(&before, true, "a load without room changed something");

    // What is staged needs no room any more: not to be committed, rolled back or finalized.
    for end in ["rollback", "finalize"] {
        let key = run();
        volume.engine.stage(&key, Arc::new(fits.clone()), &context()).await.unwrap();
        keepsake_tests::own_mounts::fill(&volume.root, 0);
        let committed = volume.engine.commit(&key, &context()).await;
        // The filler is not of the set: it was moved out, and comes back.
        assert_eq!(committed.expect("a commit on a full volume").counts["files"], 1);
        assert_eq!(names(&volume.root).last().unwrap(), "large");
        if end == "rollback" {
            volume.engine.rollback(&key, &context()).await.expect("a rollback on a full volume");
            keepsake_tests::own_mounts::make_room(&volume.root);
            let mut now = volume.manifest();
            now.0.insert(Vec::new(), before.0[&Vec::new()].clone());
            now.assert_is(&before, true, "rolled back on a full volume");
        } else {
            volume.engine.finalize(&key, &context()).await.expect("a finalize on a full volume");
        }
        assert_eq!(volume.leftovers(), Vec::<String>::new());
    }
    assert_eq!(names(&volume.root), ["large"]);
    unmount(&volume.root);
}
