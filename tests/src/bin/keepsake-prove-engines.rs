//! `make prove-engines`: every engine, every fault, and for each claim a deliberate break that must be seen.

use std::process::ExitCode;
use std::time::Duration;

use keepsake_tests::prove;
use peak_alloc::PeakAlloc;

/// Counts what the fuzzed readers take.
#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

fn main() -> ExitCode {
    prove::main("engines", Duration::from_mins(30), &prove::engines::claims(&MEMORY))
}
