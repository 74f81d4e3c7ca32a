//! Random bytes for keys, nonces and padding, which no seed may determine.

/// `N` random bytes from the operating system.
pub(super) fn bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the operating system has random bytes once it is up");
    bytes
}

/// A random 64-bit number.
pub(super) fn number() -> i64 {
    i64::from_le_bytes(bytes())
}
