//! A small made-up 3scale, with the real names of tables, columns and keys, and the traps that cost people their data.
//!
//! The traps: rows that a trigger would change if it ran at load, 4-byte characters in the only tables that can hold them, zero dates, blobs that are
//! not text, a stored procedure and triggers with a definer, an AUTO_INCREMENT far ahead, application ids with any sign, an unlogged
//! table, a comment that a program reads, names of files that are not UTF-8, links that lead nowhere, holes.

pub mod backend;
pub mod config;
pub mod storage;
pub mod system;
pub mod system_redis;
pub mod zync;

/// How much there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Buyer applications.
    pub applications: u32,
    /// Keys with usage counters in backend-redis.
    pub counters: u32,
    /// Files in system-storage, beside the odd ones.
    pub files: u32,
}

impl Size {
    /// A few kilobytes per store: enough for every trap.
    pub const TINY: Self = Self { applications: 40, counters: 200, files: 5 };
    /// The demo's: some megabytes per store.
    pub const SMALL: Self = Self { applications: 2_000, counters: 40_000, files: 60 };
}

/// Numbers that look random and are the same every time.
#[derive(Debug, Clone)]
pub struct Numbers(u64);

impl Numbers {
    /// From a seed; another seed is another installation.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next one.
    pub fn draw(&mut self) -> u64 {
        // xorshift64*: good enough to fill tables.
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A key as 3scale makes them: 32 hex digits.
    pub fn key(&mut self) -> String {
        format!("{:016x}{:016x}", self.draw(), self.draw())
    }

    /// Bytes of any value.
    pub fn bytes(&mut self, n: usize) -> Vec<u8> {
        (0..n).map(|_| (self.draw() >> 32) as u8).collect()
    }
}

/// The id of the n-th application as Backend knows it. Some have signs that a careless scan or split stumbles over.
pub fn application_id(n: u32) -> String {
    match n % 20 {
        7 => format!("app/{n}:x"),
        13 => format!("{{app}}{n}*?[a]"),
        17 => format!("app\"{n}'\\%"),
        _ => format!("{:08x}", n.wrapping_mul(2_654_435_761)),
    }
}
