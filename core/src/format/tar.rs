//! Archives of system-storage: ustar with pax records, one pass, entries in one order.

#[cfg(test)]
mod archives;
mod decode;
mod encode;
mod entry;
mod reader;
mod rules;

pub use encode::{BLOCK, END, encode, padding};
pub use entry::{Body, Entry, Extent, File, MAX_DEPTH, Meta, Stamp, Tally, check_plain, shown, split};
pub use reader::{Input, Reader};
pub use rules::Rules;
