//! The map of ARCHITECTURE.md, enforced: who may import whom, how long a file may be, that each says what it is for.

use std::path::{Path, PathBuf};

/// Lines of a file, at most: about what one reads in a sitting.
const LONGEST: usize = 400;

/// In this folder or file, `use` and paths may not name any of these.
struct Wall {
    /// Below the project's root; a file or a folder.
    place: &'static str,
    /// What may not be named there, and why.
    forbidden: &'static [&'static str],
    why: &'static str,
}

const WALLS: &[Wall] = &[
    Wall {
        place: "core/src",
        forbidden: &[
            "keepsake_proto",
            "keepsake_agent",
            "keepsake_coordinator",
            "tonic",
            "prost",
            "kube",
            "redis::",
            "mysql_async",
            "tokio_postgres",
        ],
        why: "core is what a backup is: no gRPC, no Kubernetes, no client of a datastore",
    },
    Wall {
        place: "proto/src",
        forbidden: &["keepsake_agent", "keepsake_coordinator", "redis::", "mysql_async", "tokio_postgres"],
        why: "proto is how agent and coordinator talk, and knows neither",
    },
    Wall {
        place: "agent/src",
        forbidden: &["keepsake_coordinator"],
        why: "agent and coordinator never import each other",
    },
    Wall {
        place: "coordinator/src",
        forbidden: &["keepsake_agent"],
        why: "agent and coordinator never import each other",
    },
    Wall {
        place: "agent/src/engine",
        forbidden: &[
            "keepsake_proto",
            "crate::service",
            "crate::operation",
            "crate::app",
            "crate::config",
            "crate::storage",
            "crate::stream",
            "tonic",
        ],
        why: "an engine knows its datastore, process and core; not who asks",
    },
    Wall {
        place: "agent/src/process.rs",
        forbidden: &["crate::engine", "crate::service", "crate::operation"],
        why: "process is below the engines",
    },
    Wall {
        place: "agent/src/operation",
        forbidden: &[
            "crate::service",
            "crate::app",
            "engine::redis",
            "engine::mysql",
            "engine::postgres",
            "engine::files",
        ],
        why: "operations know the engine's trait only",
    },
    Wall {
        place: "agent/src/service",
        forbidden: &["engine::redis", "engine::mysql", "engine::postgres", "engine::files", "crate::app"],
        why: "the service knows the engine's trait only",
    },
    Wall {
        place: "coordinator/src/plan",
        forbidden: &[
            "crate::fleet",
            "crate::run",
            "crate::cli",
            "crate::app",
            "keepsake_proto",
            "async fn",
            ".await",
            "tokio",
        ],
        why: "a plan is pure data made of core types; nothing in it waits",
    },
    Wall {
        place: "coordinator/src/plan.rs",
        forbidden: &[
            "crate::fleet",
            "crate::run",
            "crate::cli",
            "crate::app",
            "keepsake_proto",
            "async fn",
            ".await",
            "tokio",
        ],
        why: "a plan is pure data made of core types; nothing in it waits",
    },
    Wall {
        place: "coordinator/src/run",
        forbidden: &["keepsake_proto", "fleet::grpc", "tonic"],
        why: "a run knows the fleet by its trait",
    },
    Wall {
        place: "coordinator/src/webhook",
        forbidden: &[
            "keepsake_core::repository",
            "keepsake_core::secret",
            "crate::app",
            "crate::fleet",
            "crate::platform",
            "crate::run",
            "crate::topology",
            "kube::",
            "keepsake_proto::client",
        ],
        why: "the webhook answers: no repository, no credentials, no question to the API server",
    },
    Wall {
        place: "coordinator/src/run.rs",
        forbidden: &["keepsake_proto", "fleet::grpc", "tonic"],
        why: "a run knows the fleet by its trait",
    },
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the project's root").to_path_buf()
}

/// Every file of Rust below a place of the project.
fn sources(place: &str) -> Vec<PathBuf> {
    let mut pending = vec![root().join(place)];
    let mut found = Vec::new();
    while let Some(path) = pending.pop() {
        if path.is_dir() {
            pending.extend(std::fs::read_dir(&path).expect("list a folder").map(|e| e.expect("an entry").path()));
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// What a file does, without comments and without its tests.
fn code(text: &str) -> String {
    let production = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    production.lines().filter(|l| !l.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

#[test]
fn architecture_walls_hold() {
    let mut breaches = Vec::new();
    for wall in WALLS {
        let files = sources(wall.place);
        assert!(!files.is_empty(), "there is nothing in {}: correct the wall", wall.place);
        for file in files {
            let code = code(&std::fs::read_to_string(&file).expect("read a source"));
            breaches.extend(
                wall.forbidden
                    .iter()
                    .filter(|word| code.contains(*word))
                    .map(|word| format!("{} names {word}: {}", file.display(), wall.why)),
            );
        }
    }
    assert!(breaches.is_empty(), "{}", breaches.join("\n"));
}

#[test]
fn architecture_only_the_command_line_knows_the_command_line() {
    for file in sources("coordinator/src") {
        let inside = file.components().any(|c| c.as_os_str() == "cli") || file.ends_with("cli.rs");
        let entry = file.ends_with("main.rs") || file.ends_with("lib.rs");
        let code = code(&std::fs::read_to_string(&file).expect("read a source"));
        assert!(inside || entry || !code.contains("crate::cli"), "{} names crate::cli: nothing may", file.display());
    }
}

#[test]
fn architecture_only_its_platform_knows_kubernetes() {
    for file in sources("coordinator/src")
        .into_iter()
        .chain(sources("core/src"))
        .chain(sources("proto/src"))
        .chain(sources("agent/src"))
    {
        let inside = file.to_string_lossy().contains("platform/kubernetes");
        let code = code(&std::fs::read_to_string(&file).expect("read a source"));
        let knows = code.contains("kube::") || code.contains("k8s_openapi");
        assert!(inside || !knows, "{} knows the API of Kubernetes: only platform/kubernetes may", file.display());
    }
}

#[test]
fn architecture_files_are_short_and_say_what_they_are_for() {
    let mut wrong = Vec::new();
    for folder in ["core", "proto", "agent", "coordinator", "tests"] {
        for file in sources(folder) {
            let text = std::fs::read_to_string(&file).expect("read a source");
            let lines = text.lines().count();
            if lines > LONGEST {
                wrong.push(format!("{} has {lines} lines: split it by responsibility", file.display()));
            }
            if !text.starts_with("//!") {
                wrong.push(format!("{} does not begin with what it is for (`//!`)", file.display()));
            }
            for word in ["manager", "helper", "utils", "common", "handler"] {
                if file.file_stem().is_some_and(|s| s.to_string_lossy().contains(word)) {
                    wrong.push(format!("{} is named {word}: name what it does", file.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
