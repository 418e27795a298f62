//! `make prove-kube`: Kubernetes, on a genuine control plane, and for each claim a deliberate break that must be seen.

use std::process::ExitCode;
use std::time::Duration;

use keepsake_tests::prove;

fn main() -> ExitCode {
    prove::main("kube", Duration::from_mins(60), &prove::kube::claims())
}
