//! Every reader gets bytes that a dump tool never wrote. A binary of its own, because it counts what is allocated.
//!
//! `KEEPSAKE_FUZZ_INPUTS` says how many inputs per format, `KEEPSAKE_FUZZ_SEED` which.

use keepsake_tests::fuzz;
use peak_alloc::PeakAlloc;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// Inputs per format, unless the environment says otherwise.
const INPUTS: u64 = 3_000;

#[test]
fn no_bytes_make_a_reader_panic_or_grow() {
    let inputs = std::env::var("KEEPSAKE_FUZZ_INPUTS").map_or(INPUTS, |n| n.parse().expect("KEEPSAKE_FUZZ_INPUTS"));
    let seed = std::env::var("KEEPSAKE_FUZZ_SEED").map_or(1, |n| n.parse().expect("KEEPSAKE_FUZZ_SEED"));
    println!("{}", fuzz::large_ones_pass_through(&MEMORY));
    for format in &fuzz::FORMATS {
        println!("{}", fuzz::run(format, inputs, seed, &MEMORY));
    }
}
