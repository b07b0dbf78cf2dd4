//! Random choices that a failing test can repeat.

/// A small generator (SplitMix64); its seed is printed and may be given.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// Seeded with `STATED_TEST_SEED`, else by the clock; printed either way.
    pub fn new() -> Self {
        let given = std::env::var("STATED_TEST_SEED").ok().and_then(|text| text.parse().ok());
        let now = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
        let seed = given.unwrap_or_else(|| now().as_nanos() as u64);
        eprintln!("repeat with STATED_TEST_SEED={seed}");
        Self(seed)
    }

    /// Of this seed.
    pub fn seeded(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.bits() % end
    }

    /// Whether one of `n` equally likely things happened.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// Bytes that do not compress.
    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes: Vec<u8> = (0..len.div_ceil(8)).flat_map(|_| self.bits().to_le_bytes()).collect();
        bytes.truncate(len);
        bytes
    }
}

impl Default for Random {
    fn default() -> Self {
        Self::new()
    }
}
