//! `make prove-restore`: a restore never leaves anybody worse off, and for each claim a deliberate break that must be seen.

use std::process::ExitCode;
use std::time::Duration;

use keepsake_tests::prove;

fn main() -> ExitCode {
    prove::main("restore", Duration::from_mins(30), &prove::restore::claims())
}
