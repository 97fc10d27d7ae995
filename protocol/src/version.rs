//! Protocol versions and feature bits (`spec/wire.md` section 13).

/// 1, since 0.1.0: the first.
pub const VERSION: u16 = 1;

/// The lowest version that this build speaks.
pub const VERSION_MIN: u16 = 1;

/// The feature bits that this build has; none is defined yet.
pub const FEATURES: u64 = 0;
