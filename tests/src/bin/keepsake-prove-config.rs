//! `make prove-config`: Backend's Config is what System's database says, and for each claim a deliberate break that must be seen.

use std::process::ExitCode;
use std::time::Duration;

use keepsake_tests::prove;

fn main() -> ExitCode {
    prove::main("config", Duration::from_mins(20), &prove::config::claims())
}
