//! A real agent beside a store, as a child process.

use std::time::{Duration, Instant};

use super::{COORDINATOR, House, Installation, programs};
use crate::child::{Process, tool_command};

/// An agent that runs.
#[derive(Debug)]
pub struct Agent {
    /// The component beside which it stands.
    pub component: String,
    /// Its engine.
    pub engine: &'static str,
    process: Process,
    address: String,
    /// What it is started with.
    pub arguments: Vec<String>,
}

impl Agent {
    /// Starts one with a certificate of its own.
    pub fn start(house: &House, installation: &Installation, component: &str) -> Self {
        let name = format!("{component}.{}", installation.name);
        let folder = house.path(&format!("{}/{component}", installation.name));
        house.must(&["pki", "issue", "--ca", &house.path("ca"), "--name", &name, "--out", &folder]);
        let (engine, own) = engine_arguments(installation, component);
        let mut arguments: Vec<String> = [
            ("--installation", installation.name.as_str()),
            ("--component", component),
            ("--listen", "127.0.0.1:0"),
            ("--admin", "127.0.0.1:0"),
            ("--tls-ca", &format!("{folder}/ca.crt")),
            ("--tls-cert", &format!("{folder}/tls.crt")),
            ("--tls-key", &format!("{folder}/tls.key")),
            ("--allow", &format!("backup={COORDINATOR},restore={COORDINATOR}")),
            ("--repository", &house.at.url),
            ("--scratch", &format!("{folder}/scratch")),
            ("--log-format", "json"),
        ]
        .iter()
        .flat_map(|(flag, value)| [(*flag).to_owned(), (*value).to_owned()])
        .collect();
        arguments.extend(house.at.agents.iter().cloned());
        arguments.push(engine.to_owned());
        arguments.extend(own);
        let (process, address) = launch(component, &arguments);
        Self { component: component.to_owned(), engine, process, address, arguments }
    }

    /// `127.0.0.1:port`
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The process.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Kills it at once.
    pub fn kill9(&mut self) {
        self.process.kill();
    }

    /// Kills it and starts it again at the same address, as whoever supervises it would.
    pub fn replace(&mut self) {
        self.process.kill();
        let mut arguments = self.arguments.clone();
        let listen = arguments.iter().position(|a| a == "--listen").expect("where it listens") + 1;
        arguments[listen].clone_from(&self.address);
        (self.process, self.address) = launch(&self.component, &arguments);
    }

    /// Kills it and starts it again; the topology must be written anew, because its port is another.
    pub fn restart(&mut self) {
        self.process.kill();
        (self.process, self.address) = launch(&self.component, &self.arguments);
    }
}

fn launch(component: &str, arguments: &[String]) -> (Process, String) {
    let mut command = tool_command(programs().join("keepsake-agent"));
    command.args(arguments);
    let mut process = Process::start(component, command);
    let end = Instant::now() + Duration::from_secs(30);
    loop {
        let listening = process.output().iter().find_map(|line| {
            let line: serde_json::Value = serde_json::from_str(line).ok()?;
            (line["message"] == "listening").then(|| line["address"].as_str().map(str::to_owned))?
        });
        if let Some(address) = listening {
            return (process, address);
        }
        let ended = process.ended();
        assert!(
            ended.is_none() && Instant::now() < end,
            "the agent of {component} does not listen ({ended:?}): {:#?}",
            process.output()
        );
        std::thread::yield_now();
    }
}

fn engine_arguments(installation: &Installation, component: &str) -> (&'static str, Vec<String>) {
    let redis = |server: &crate::servers::redis::RedisServer| {
        vec![
            "--redis-url".to_owned(),
            server.url(),
            "--redis-password-file".to_owned(),
            server.password_file().display().to_string(),
            "--redis-data-dir".to_owned(),
            server.data().display().to_string(),
        ]
    };
    match component {
        "system-mysql" => (
            "mysql",
            vec![
                "--mysql-port".to_owned(),
                installation.mysql.port().to_string(),
                "--mysql-password-file".to_owned(),
                installation.mysql.password_file().display().to_string(),
                "--mysql-database".to_owned(),
                "system".to_owned(),
            ],
        ),
        "backend-redis" => ("redis", redis(&installation.backend)),
        "system-redis" => ("redis", redis(&installation.system_redis)),
        "zync-database" => (
            "postgres",
            vec![
                "--postgres-port".to_owned(),
                installation.zync.port().to_string(),
                "--postgres-password-file".to_owned(),
                installation.zync.password_file().display().to_string(),
            ],
        ),
        "system-storage" => {
            let mut own = vec!["--files-root".to_owned(), installation.storage.display().to_string()];
            if crate::child::is_root() {
                own.push("--files-preserve-owner".to_owned());
            }
            ("files", own)
        }
        other => panic!("there is no component {other}"),
    }
}
