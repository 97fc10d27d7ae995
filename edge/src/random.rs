//! Random bytes from the system.

/// `N` random bytes.
///
/// # Panics
/// If the system has no randomness to give, without which no nonce, id or key can be made.
#[must_use]
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the system gives random bytes");
    bytes
}

/// A random number that is not 0.
#[must_use]
pub fn random_u64() -> u64 {
    loop {
        let number = u64::from_le_bytes(random());
        if number != 0 {
            return number;
        }
    }
}
