//! Agents beside their databases, in the databases' own pods: a mutating admission webhook on pods.
//!
//! The operator of 3scale takes back whatever is added to its Deployments. So nothing is changed there: the API server shows every new pod to this webhook, and
//! a pod that asks for it gets the agent as a container, in the image of its own database, so that tools and server always match. What cannot have one is
//! admitted as it is, with a word of why. Its answer never refuses a pod: an agent is worth less than the database. What it adds can all the same keep a pod from starting (`manifests/README.md`).
//!
//! `settings` is what the administrator says, `pod` what is looked at, `judge` decides and `patch` writes what is added (both pure), `review` is the API server's
//! envelope, `serve` listens. Nothing here has a repository, credentials of a datastore, or a client of the API server.

mod judge;
mod patch;
mod pod;
mod review;
mod serve;
pub mod settings;

pub use self::review::answer;
pub use self::serve::{Config, Running, start};
pub use self::settings::Settings;

/// Label or annotation of a pod that asks for an agent; its value is the component.
pub const OPT_IN: &str = "keepsake/agent";
/// Label that a pod gets with its agent, for Services; its value is the component.
pub const SIDECAR: &str = "keepsake/sidecar";
/// The name of the container that is added.
pub const CONTAINER: &str = "keepsake-agent";
/// The labels by which 3scale names its own pods: from 2.15 on, and before.
pub const NAMED_BY: [&str; 2] = ["deployment", "deploymentConfig"];
