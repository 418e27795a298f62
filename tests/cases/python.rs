//! Other tooling: `Dump` and `Load` driven by a Python client that was generated from the protos alone.

use std::path::Path;

use keepsake_tests::child::{run, tool_command};
use keepsake_tests::house::{COMPONENTS, House, State};
use keepsake_tests::threescale::Size;
use serde_json::Value;

/// What the packages of Debian belong to, whatever other Python comes first in the path.
const PYTHON: &str = "/usr/bin/python3";

/// A client of one agent.
struct Client<'a> {
    house: &'a House,
    component: &'a str,
}

impl Client<'_> {
    fn ask(&self, command: &str, more: &[&str]) -> Value {
        let agent =
            self.house.installations[0].agents.iter().find(|a| a.component == self.component).expect("an agent");
        let mut python = tool_command(PYTHON);
        python
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("python/client.py"))
            .args([&self.house.path("generated"), &self.house.path("coordinator"), agent.address()])
            .args([&format!("{}.prod", self.component), command])
            .args(more);
        let done = run(&mut python);
        assert!(done.status.success(), "{command}: {}", String::from_utf8_lossy(&done.stderr));
        serde_json::from_slice(&done.stdout).expect("JSON")
    }
}

fn generate(house: &House) {
    let out = house.scratch.folder("generated", 0o755);
    let protos = Path::new(env!("CARGO_MANIFEST_DIR")).join("../proto");
    let plugin = run(tool_command("sh").args(["-c", "command -v grpc_python_plugin"]));
    let plugin = String::from_utf8(plugin.stdout).expect("UTF-8");
    let mut protoc = tool_command("protoc");
    protoc
        .arg(format!("--plugin=protoc-gen-grpc_python={}", plugin.trim()))
        .arg(format!("--python_out={}", out.display()))
        .arg(format!("--grpc_python_out={}", out.display()))
        .arg("-I")
        .arg(&protos)
        .arg(protos.join("keepsake/agent/v1/agent.proto"));
    let done = run(&mut protoc);
    assert!(done.status.success(), "protoc: {}", String::from_utf8_lossy(&done.stderr));
}

#[tokio::test]
async fn installation_is_dumped_and_loaded_by_a_client_generated_from_the_protos() {
    let house = House::new(&["prod"], Size::TINY).await;
    generate(&house);
    let before = State::of(&house.installations[0]).await;
    let artifacts = [
        ("system-mysql", "dump.sql"),
        ("backend-redis", "dump.rdb"),
        ("system-redis", "dump.rdb"),
        ("zync-database", "dump.pgc"),
        ("system-storage", "files.tar"),
    ];
    for (component, artifact) in artifacts {
        let client = Client { house: &house, component };
        assert_eq!(client.ask("health", &[])["serving"], true);
        let told = client.ask("describe", &[]);
        assert_eq!((told["component"].as_str(), told["problems"].as_array().map(Vec::len)), (Some(component), Some(0)));
        let folder = house.scratch.folder(&format!("python/{component}"), 0o755);
        let dumped = client.ask("dump", &[&folder.display().to_string()]);
        assert_eq!(dumped["artifacts"].as_object().unwrap().keys().collect::<Vec<_>>(), [artifact]);
        assert!(!dumped["counts"].as_object().unwrap().is_empty(), "{dumped:#}");
    }

    house.installations[0].wreck().await;
    let wrecked = State::of(&house.installations[0]).await;
    for component in COMPONENTS {
        assert!(!wrecked.differences(&before, component).is_empty(), "{component} was not wrecked");
    }
    for (component, artifact) in artifacts {
        let client = Client { house: &house, component };
        let folder = house.path(&format!("python/{component}"));
        for (bad, word) in [("load-without-trailer", "ended within"), ("load-with-wrong-digest", "SHA-256")] {
            let refused = client.ask(bad, &[&folder, artifact]);
            assert!(refused["text"].as_str().unwrap_or_default().contains(word), "{component} {bad}: {refused:#}");
        }
    }
    State::of(&house.installations[0]).await.assert_is(&wrecked, "after what was refused");

    for (component, artifact) in artifacts {
        let client = Client { house: &house, component };
        let loaded = client.ask("load", &[&house.path(&format!("python/{component}")), artifact]);
        assert!(!loaded["counts"].as_object().expect("counts").is_empty(), "{component}: {loaded:#}");
    }
    State::of(&house.installations[0]).await.assert_is(&before, "after what was loaded");
}
