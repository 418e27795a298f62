//! Whole installations: real servers, real agents over mutual TLS, the real command line.

mod config;
mod queues;
mod refused;
mod resumed;
mod roles;
mod taken_back;
mod whole;

use std::path::Path;

use keepsake_tests::child::{run, tool_command};
use keepsake_tests::house::{COMPONENTS, COORDINATOR, House, State, files_below, programs};
use keepsake_tests::threescale::Size;

/// Words that may appear nowhere outside the files that hold them.
const CANARIES: [&str; 3] = ["canary-redis-password", "canary-postgres-password", "canary-pw"];

/// The secret in these bytes, if there is one: a canary, the signing key, or any age identity (the bare prefix is in the manual).
fn secret_in(house: &House, bytes: &[u8]) -> Option<String> {
    let signing = std::fs::read_to_string(house.path("signing.pem")).expect("the signing key");
    let signing = signing.lines().nth(1).expect("its body").to_owned();
    let text = String::from_utf8_lossy(bytes);
    let identity =
        text.split("AGE-SECRET-KEY-1").skip(1).any(|rest| rest.bytes().take(20).all(|b| b.is_ascii_alphanumeric()));
    let known = CANARIES.into_iter().map(str::to_owned).chain([signing]).find(|secret| text.contains(secret.as_str()));
    known.or_else(|| identity.then(|| "an age identity".to_owned()))
}

/// Everything that was said or stored is looked through for secrets.
fn assert_no_secret(house: &House, said: &[String]) {
    let identity = std::fs::read(house.path("identity-1")).expect("an identity");
    assert!(secret_in(house, &identity).is_some(), "the search finds no secret where there is one");
    for text in said {
        assert_eq!(secret_in(house, text.as_bytes()), None, "was said: {text}");
    }
    for installation in &house.installations {
        for agent in &installation.agents {
            for line in agent.process().output() {
                assert_eq!(secret_in(house, line.as_bytes()), None, "is in the log of {}: {line}", agent.component);
            }
            let argv =
                std::fs::read(format!("/proc/{}/cmdline", agent.process().pid())).expect("the agent's arguments");
            assert_eq!(secret_in(house, &argv), None, "is in the arguments of {}", agent.component);
        }
    }
    for path in files_below(&house.repository()) {
        let bytes = std::fs::read(&path).expect("a stored object");
        assert_eq!(secret_in(house, &bytes), None, "is in {}", path.display());
        let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).expect("its mode").permissions());
        assert_eq!(mode & 0o077, 0, "others may read {}", path.display());
    }
}

#[tokio::test]
async fn installation_is_backed_up_wrecked_and_restored() {
    let mut house = House::new(&["prod"], Size::TINY).await;
    let mut said = Vec::new();
    let before = State::of(&house.installations[0]).await;

    let doctor = house.must(&["doctor"]);
    assert!(doctor.contains("create-only") && !doctor.contains("BAD"), "{doctor}");
    said.push(doctor);
    said.push(house.must(&["plan", "backup"]));
    let done = house.must_json(&["backup", "--all"]);
    assert_eq!(done[0]["outcome"], "completed", "{done:#}");
    let sets = house.must_json(&["sets"]);
    assert_eq!((sets[0]["status"].as_str(), sets[0]["latest"].as_bool()), (Some("complete"), Some(true)), "{sets:#}");
    said.extend([
        house.must(&["show"]),
        house.must(&["verify"]),
        house.must(&["inspect", "--all", "--identity", &house.path("identity-1")]),
        house.must(&["runs"]),
        house.must(&["runs", "1"]),
        house.must(&["keys", "list"]),
    ]);
    house.must(&["keys", "test", "--identity", &house.path("identity-2")]);

    house.installations[0].wreck().await;
    let wrecked = State::of(&house.installations[0]).await;
    for component in COMPONENTS {
        assert!(!wrecked.differences(&before, component).is_empty(), "{component} was not wrecked");
    }

    // Without an identity, or without the name of what is overwritten, nothing is done.
    let refused = house.keepsake(&["restore", "--yes", "prod"]);
    assert_eq!(refused.status.code(), Some(1), "{}", String::from_utf8_lossy(&refused.stderr));
    let refused = house.keepsake(&["restore", "--identity", &house.path("identity-1")]);
    assert_eq!(refused.status.code(), Some(2), "{}", String::from_utf8_lossy(&refused.stderr));
    State::of(&house.installations[0]).await.assert_is(&wrecked, "after what was refused");

    let plan = house.must(&["plan", "restore"]);
    assert!(plan.contains("point of no return") && !plan.contains("cannot be undone"), "{plan}");
    said.push(plan);
    // One component first: the others stay as they are.
    house.must(&["restore", "--yes", "prod", "--component", "zync-database", "--identity", &house.path("identity-1")]);
    let now = State::of(&house.installations[0]).await;
    assert_eq!(now.differences(&before, "zync-database"), Vec::<String>::new());
    assert!(!now.differences(&before, "system-mysql").is_empty());
    said.push(house.must(&["restore", "--yes", "prod", "--identity", &house.path("identity-1")]));
    State::of(&house.installations[0]).await.assert_is(&before, "after the restore");

    // A store whose agent is gone makes the set partial: exit status 4, and never the latest.
    let latest = sets[0]["set"].clone();
    house.installations[0].agent("system-redis").kill9();
    let partial = house.keepsake(&["--output", "json", "backup"]);
    assert_eq!(partial.status.code(), Some(4), "{}", String::from_utf8_lossy(&partial.stderr));
    let sets = house.must_json(&["sets"]);
    let made = sets.as_array().unwrap();
    assert_eq!(made.last().unwrap()["status"], "partial", "{sets:#}");
    // One of the component that was restored alone, one of everything; neither passes for a backup.
    let safety: Vec<_> = made.iter().filter(|s| s["purpose"] == "safety").map(|s| s["status"].as_str()).collect();
    assert_eq!(safety, [Some("partial"), Some("complete")], "{sets:#}");
    assert_eq!(sets.as_array().unwrap().iter().find(|s| s["latest"] == true).unwrap()["set"], latest);
    house.installations[0].agent("system-redis").restart();
    house.write_topology();
    house.must(&["backup"]);
    assert_no_secret(&house, &said);
}

#[tokio::test]
async fn installation_survives_kills_of_coordinator_and_agents() {
    use std::io::{BufRead, BufReader};
    let mut house = House::new(&["prod"], Size::TINY).await;
    house.must(&["backup"]);
    let before = State::of(&house.installations[0]).await;

    // The coordinator is killed at every event that it prints; the next backup works, and no record lacks its data.
    let mut events = 0;
    loop {
        let mut command = house.command();
        command.args(["backup"]).stderr(std::process::Stdio::piped()).stdout(std::process::Stdio::null());
        let mut child = command.spawn().expect("start keepsake");
        let lines = BufReader::new(child.stderr.take().expect("stderr")).lines();
        let mut seen = 0;
        for line in lines.map_while(Result::ok) {
            if line.starts_with("prod: ") {
                seen += 1;
                if seen > events {
                    rustix::process::kill_process(
                        rustix::process::Pid::from_child(&child),
                        rustix::process::Signal::KILL,
                    )
                    .expect("kill");
                    break;
                }
            }
        }
        let status = child.wait().expect("wait");
        if status.success() {
            break;
        }
        events += 1;
        for set in house.must_json(&["sets"]).as_array().unwrap() {
            if set["status"] == "complete" {
                house.must(&["verify", set["set"].as_str().unwrap()]);
            }
        }
        // The run is unfinished, or it was killed after its last word was durable.
        let ended = house.keepsake(&["cancel", "--coordinator-is-gone"]);
        assert!(matches!(ended.status.code(), Some(0 | 1)), "{}", String::from_utf8_lossy(&ended.stderr));
        house.must(&["backup"]);
    }
    assert!(events >= 10, "only {events} events were seen");

    // An agent is killed while the others go on: that component fails, and after a restart all is well.
    for component in COMPONENTS {
        house.installations[0].agent(component).kill9();
        let done = house.keepsake(&["backup"]);
        assert_eq!(done.status.code(), Some(4), "{component}: {}", String::from_utf8_lossy(&done.stderr));
        house.installations[0].agent(component).restart();
        house.write_topology();
    }
    house.must(&["backup"]);
    house.installations[0].wreck().await;
    house.must(&["restore", "--yes", "prod", "--identity", &house.path("identity-1")]);
    State::of(&house.installations[0]).await.assert_is(&before, "after all the kills");
}

#[tokio::test]
async fn installation_is_inspected_to_the_end_of_every_dump() {
    let house = House::new(&["prod"], Size::TINY).await;
    house.must(&["backup"]);
    let identity = house.path("identity-2");
    let inspected = house.must_json(&["inspect", "--identity", &identity]);
    let artifacts = inspected[0]["artifacts"].as_array().expect("artifacts");
    // system-mysql is dumped by two tools under the hold: two of rows, one of objects, one of views.
    assert_eq!(artifacts.len(), 8, "{inspected:#}");
    assert!(artifacts.iter().all(|a| a["failure"].is_null() && a["bytes"].as_u64() > Some(500)), "{inspected:#}");

    let closed = house.keepsake(&["inspect"]);
    assert_eq!(closed.status.code(), Some(1), "{}", String::from_utf8_lossy(&closed.stderr));

    // What is gone from the repository is found, by name, and the others are inspected all the same.
    let lost = files_below(&house.repository())
        .into_iter()
        .find(|p| p.display().to_string().contains("/segments/zync-database/"))
        .expect("a segment");
    std::fs::remove_file(lost).expect("lose a segment");
    let bad = house.keepsake(&["inspect", "--identity", &identity]);
    let told = String::from_utf8_lossy(&bad.stdout).into_owned();
    assert_eq!(bad.status.code(), Some(5), "{told}");
    assert!(
        told.contains("BAD  zync-database/dump.pgc") && told.matches("good ").count() == artifacts.len() - 1,
        "{told}"
    );
}

/// The coordinator is told where the repository is by variables, as in a cluster. Agents that have another one would leave a record here and the data there.
#[tokio::test]
async fn installation_whose_agents_have_another_repository_is_not_backed_up() {
    let house = House::new(&["prod"], Size::TINY).await;
    let text = std::fs::read_to_string(house.path("keepsake.yaml")).expect("the topology");
    let url = |folder: &Path| format!("file://{}", folder.display());
    let said = format!("  url: {}\n", url(&house.repository()));
    assert!(text.contains(&said), "{text}");
    let command = |name: &str, folder: &Path, args: &[&str]| {
        let topology = house.path(&format!("{name}.yaml"));
        std::fs::write(&topology, text.replace(&said, "")).expect("write a topology");
        let mut command = tool_command(programs().join("keepsake"));
        command.arg("--topology").arg(topology).args(args).env("KEEPSAKE_REPOSITORY", url(folder));
        let done = run(&mut command);
        let told = [done.stdout, done.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        (done.status.code(), told)
    };
    let (status, told) = command("same", &house.repository(), &["doctor"]);
    assert!(status == Some(0) && told.contains("and it is this one"), "{told}");
    // Its own certificate ends as silently as an agent's.
    assert!(told.contains("coordinator") && told.contains("expires in 36"), "{told}");
    let (ca, short) = (house.path("ca"), house.path("short"));
    house.must(&["pki", "issue", "--ca", &ca, "--name", COORDINATOR, "--days", "5", "--out", &short]);
    std::fs::remove_dir_all(house.path("coordinator")).expect("remove the certificate");
    std::fs::rename(&short, house.path("coordinator")).expect("put a short one in its place");
    let (status, told) = command("same", &house.repository(), &["doctor"]);
    let ends = told.lines().find(|line| line.contains("BAD")).unwrap_or_default();
    assert!(status == Some(5) && ends.contains("coordinator") && ends.contains("issue a new one"), "{told}");

    let other = house.scratch.folder("other-repository", 0o700);
    let made = house.must_json(&["keys", "generate", "--identity", &house.path("identity-3")]);
    let recipient = made["recipient"].as_str().expect("a recipient");
    let (status, told) = command("other", &other, &["init", "--recipient", recipient, "--single-recipient"]);
    assert_eq!(status, Some(0), "{told}");
    let (status, told) = command("other", &other, &["doctor"]);
    assert!(status == Some(5) && told.contains("the agent has another repository"), "{told}");
    let (status, told) = command("other", &other, &["backup"]);
    assert!(status == Some(1) && told.contains("writes to another repository"), "{status:?}: {told}");
    assert!(!files_below(&other).iter().any(|f| f.ends_with("record.json")), "there is a record");
}
