//! What `make prove-kube` claims: on a genuine control plane a restore is one command, and whoever ends it, all comes back.

use std::time::Duration;

use super::{Break, Case, Claim, LONG, SHORT, suite};

/// A control plane is started, and its controllers are waited for, beside three others.
const KUBE: Duration = Duration::from_mins(8);

/// A cluster whose pods run, and which are killed and waited for.
const NODE: Duration = Duration::from_mins(20);

/// All claims.
pub fn claims() -> Vec<Claim> {
    vec![objects(), stopped(), routed(), followed(), in_cluster(), access(), found(), attached(), manifests(), node()]
}

/// Tests of the control plane.
fn tests(name: &'static str, filter: &'static str) -> Case {
    Case::telling(name, KUBE, move || async move { suite::whole("kube", &[filter], 1) })
}

/// A test in which something is broken.
fn broken(name: &'static str, test: &'static str, seen: &'static str) -> Break {
    Break { case: Case::telling(name, LONG, move || async move { suite::broken("kube", test) }), seen }
}

fn objects() -> Claim {
    Claim {
        name: "objects",
        says: "Secrets, ConfigMaps and 3scale's own objects come back as they were, and whoever dies between two writes, all of the old or all of the set's",
        cases: vec![
            tests("round-trip", "kube_objects_come_back_as_they_were"),
            tests("any-two-writes", "kube_whoever_writes_objects_may_die_between_any_two_writes"),
        ],
        breaks: vec![broken("a-write-that-is-lost", "kube_broken_a_write_is_lost", "replaced, and finalized")],
    }
}

fn stopped() -> Claim {
    Claim {
        name: "stopped",
        says: "operator and applications stop in order and come back exactly, whoever stops them dies, whoever else writes, and without an API server for a while",
        cases: vec![
            tests("as-it-was", "kube_what_is_stopped_comes_back_as_it_was"),
            tests("any-two-writes", "kube_a_coordinator_may_die_between_any_two_writes"),
            tests("conflicts", "kube_nothing_is_written_over_and_no_answer_needed"),
            tests("trouble", "kube_what_cannot_be_done_is_said"),
            tests("whole-restore", "kube_a_restore_stops_the_applications_and_starts_them_whoever_ends_it"),
            tests("from-nothing", "kube_a_namespace_that_is_gone"),
        ],
        breaks: vec![broken("a-number-that-is-forgotten", "kube_broken_a_number_is_forgotten", "it is not as it was")],
    }
}

fn routed() -> Claim {
    Claim {
        name: "routed",
        says: "Routes are closed and opened exactly, whoever dies or writes between, and what writes to a store that is restored is stopped behind them",
        cases: vec![
            tests("as-they-were", "kube_routes_are_closed_and_opened_as_they_were"),
            tests("any-two-writes", "kube_routes_survive_whoever_closes_and_opens_them"),
            tests("rebuilt", "kube_a_rebuild_opens_the_routes_that_it_closes"),
        ],
        breaks: vec![broken(
            "a-weight-that-is-forgotten",
            "kube_broken_a_weight_is_forgotten",
            "it leads nobody where it led",
        )],
    }
}

fn followed() -> Claim {
    Claim {
        name: "followed",
        says: "resyncs run as Jobs once and to their end, rollouts are waited for, and what is not as it was is told",
        cases: vec![
            tests("jobs", "kube_a_resync_is_a_job"),
            tests("once", "kube_a_resync_is_done_once"),
            tests("failures", "kube_a_resync_that_fails"),
            tests("rollouts", "kube_a_rollout"),
            tests("last-look", "kube_what_is_not_as_it_was_is_told"),
        ],
        breaks: vec![broken("a-job-that-fails", "kube_broken_a_job_fails", "has failed")],
    }
}

fn in_cluster() -> Claim {
    Claim {
        name: "in-cluster",
        says: "a coordinator in the cluster is a Job that is followed to its end, begins nothing twice, and has the set's identity alone, as long as it has to",
        cases: vec![
            tests("followed", "kube_in_cluster_a_coordinator_is_a_job"),
            tests("failures", "kube_in_cluster_what_cannot_be_done"),
        ],
        breaks: vec![broken(
            "an-identity-that-stays",
            "kube_broken_an_identity_stays",
            "the identity of the set is left",
        )],
    }
}

fn access() -> Claim {
    Claim {
        name: "access",
        says: "the Roles of the manifests grant what a backup and a restore use, and nothing else",
        cases: vec![tests("roles", "kube_access_is_what_a_backup_and_a_restore_use")],
        breaks: vec![broken("a-right-too-many", "kube_broken_a_right_too_many", "granted and never used")],
    }
}

fn found() -> Claim {
    Claim {
        name: "found",
        says: "agents that the topology gives no address are found by their pods' labels, and a set is never smaller because one is not",
        cases: vec![
            tests("labels", "kube_agents_are_found_by_their_labels"),
            tests("whole-restore", "kube_a_topology_without_components"),
        ],
        breaks: vec![broken(
            "an-agent-that-is-missing",
            "kube_broken_an_agent_is_missing",
            "zync-database has no agent",
        )],
    }
}

fn attached() -> Claim {
    Claim {
        name: "attached",
        says: "a pod that asks for it gets its agent, in its database's own image, and no pod is kept from being made",
        cases: vec![
            tests("pods", "kube_a_webhook"),
            Case::telling("over-https", KUBE, || async { suite::whole("it", &["webhook::"], 3) }),
        ],
        breaks: vec![broken("nobody-attaches", "kube_broken_nobody_attaches", "keepsake-agent")],
    }
}

fn manifests() -> Claim {
    let it = |name: &'static str, filter: &'static str, least| {
        Case::telling(name, KUBE, move || async move { suite::whole("it", &[filter], least) })
    };
    Claim {
        name: "manifests",
        says: "every manifest parses, is what its types and the programs' flags say, and applies with the role `edit`",
        cases: vec![it("all", "manifests::manifests_", 5)],
        breaks: vec![Break {
            case: Case::telling("a-flag-that-is-not", SHORT, || async {
                suite::broken("it", "manifests_broken_a_flag")
            }),
            seen: "KEEPSAKE_NO_SUCH_FLAG",
        }],
    }
}

/// Pods that run, on the one node that a machine can be at a time.
fn node() -> Claim {
    let pods = |name: &'static str, filter: &'static str| {
        Case::telling(name, NODE, move || async move { suite::long("node", filter) }).alone()
    };
    Claim {
        name: "node",
        says: "stores in pods are backed up and restored by a coordinator in the cluster, whichever pod is killed, and from nothing",
        cases: vec![
            pods("killed", "node_pods_may_be_killed_in_the_middle"),
            pods("from-nothing", "node_a_namespace_that_is_deleted_comes_back_from_nothing"),
            pods("apart", "node_a_coordinator_in_the_cluster_backs_up_and_restores"),
            pods("beside", "node_agents_in_the_databases_pods_keep_none_waiting"),
        ],
        breaks: vec![Break {
            case: Case::telling("a-row-that-is-lost", NODE, || async {
                suite::broken("node", "node_broken_a_row_is_lost")
            })
            .alone(),
            seen: "restored in the cluster: system-mysql differs",
        }],
    }
}
