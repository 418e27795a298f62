//! `make prove-cut`: one instant over all stores, and for each claim a deliberate break that must be seen.

use std::process::ExitCode;
use std::time::Duration;

use keepsake_tests::prove;

fn main() -> ExitCode {
    prove::main("cut", Duration::from_mins(20), &prove::cut::claims())
}
