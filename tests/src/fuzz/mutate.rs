//! Changes to bytes, decided by a seed.

/// Makes inputs from one good one.
pub struct Mutator {
    state: u64,
    good: Vec<u8>,
    input: Vec<u8>,
}

/// Values at the edges of what lengths and counts can be.
const EDGES: [u64; 12] =
    [0, 1, 0x7f, 0x80, 0xff, 0xffff, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff, i64::MAX as u64, 1 << 63, u64::MAX];

impl Mutator {
    /// From a seed and good bytes.
    pub fn new(seed: u64, good: Vec<u8>) -> Self {
        Self { state: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1, input: Vec::new(), good }
    }

    fn draw(&mut self) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state
    }

    fn below(&mut self, n: usize) -> usize {
        if n == 0 { 0 } else { (self.draw() % n as u64) as usize }
    }

    /// The next input. Headers of archives get their sums back half of the time: nothing behind a wrong sum is ever read.
    pub fn next(&mut self, sums: bool) -> &[u8] {
        let mut input = std::mem::take(&mut self.input);
        input.clear();
        input.extend_from_slice(&self.good);
        // Now and then nothing of the good one is left.
        if self.below(64) == 0 {
            let n = self.below(600);
            input = (0..n).map(|_| self.draw() as u8).collect();
        }
        for _ in 0..=self.below(6) {
            self.change(&mut input);
        }
        if sums && self.below(2) == 0 {
            for block in input.chunks_exact_mut(512).filter(|b| &b[257..262] == b"ustar") {
                block[148..156].fill(b' ');
                let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
                block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            }
        }
        self.input = input;
        &self.input
    }

    fn change(&mut self, input: &mut Vec<u8>) {
        let at = self.below(input.len());
        let length = 1 + self.below(40);
        let end = (at + length).min(input.len());
        match self.below(9) {
            0 if !input.is_empty() => input[at] ^= 1 << self.below(8),
            1 if !input.is_empty() => input[at] = self.draw() as u8,
            2 => input.truncate(at),
            3 => drop(input.drain(at..end)),
            // Something twice.
            4 => {
                let piece = input[at..end].to_vec();
                let to = self.below(input.len());
                input.splice(to..to, piece);
            }
            // Something from elsewhere.
            5 => {
                let from = self.below(self.good.len());
                let piece = self.good[from..(from + length).min(self.good.len())].to_vec();
                input.splice(at..end, piece);
            }
            // A number at an edge, of some width, either end first.
            6 | 7 => {
                let edge = EDGES[self.below(EDGES.len())];
                let width = [1, 2, 4, 8][self.below(4)];
                let bytes = if self.below(2) == 0 { edge.to_le_bytes() } else { edge.to_be_bytes() };
                let bytes = if self.below(2) == 0 { &bytes[..width] } else { &bytes[8 - width..] };
                for (to, from) in input.iter_mut().skip(at).zip(bytes) {
                    *to = *from;
                }
            }
            _ => {
                let noise: Vec<u8> = (0..length).map(|_| self.draw() as u8).collect();
                input.splice(at..at, noise);
            }
        }
    }
}
