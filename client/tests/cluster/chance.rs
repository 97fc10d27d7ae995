//! Numbers that follow from a seed, so that a run can be repeated.

/// The generator SplitMix64.
pub(crate) struct Chance(u64);

impl Chance {
    /// The seed in `SARSEN_TEST_SEED`, or one that differs from run to run; it is printed.
    pub(crate) fn told(what: &str) -> Self {
        let seed = told("SARSEN_TEST_SEED", u64::from(std::process::id()));
        println!("{what}: SARSEN_TEST_SEED={seed}");
        Self(seed)
    }

    /// That of a number.
    pub(crate) const fn of(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    /// A number below `end`, which is not zero.
    pub(crate) const fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// A place in a list of `len`, which is not empty.
    pub(crate) fn place(&mut self, len: usize) -> usize {
        let end = u64::try_from(len).expect("fits");
        usize::try_from(self.below(end)).expect("below len")
    }
}

/// The number in an environment variable, or another.
pub(crate) fn told(variable: &str, otherwise: u64) -> u64 {
    let told = std::env::var(variable).ok();
    told.map_or(otherwise, |text| {
        text.parse()
            .unwrap_or_else(|_| panic!("{variable}={text} is no number"))
    })
}
