//! An auth key as we hold it: in one place, however often it is handed on, and wiped there.
//!
//! grammers takes keys by value and keeps its own copies, which it does not wipe (docs/SESSIONS.md says where). So ours are
//! written straight to where they stay, are never moved, and a copy is made only where grammers asks for one.

use std::ops::Deref;

use zeroize::{ZeroizeOnDrop, Zeroizing};

/// How long a key is.
pub const KEY_BYTES: usize = 256;

/// An auth key. Moving it moves a pointer; it is wiped when it is dropped.
#[derive(Clone)]
pub struct AuthKey(Box<Zeroizing<[u8; KEY_BYTES]>>);

impl ZeroizeOnDrop for AuthKey {}

impl std::fmt::Debug for AuthKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AuthKey([redacted])")
    }
}

impl AuthKey {
    /// A copy of these bytes; `None` when a key has more or fewer.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let mut key = Self(Box::new(Zeroizing::new([0; KEY_BYTES])));
        (bytes.len() == KEY_BYTES).then(|| key.0.copy_from_slice(bytes))?;
        Some(key)
    }

    /// A copy of a key as grammers has it.
    pub fn copy(bytes: &[u8; KEY_BYTES]) -> Self {
        let mut key = Self(Box::new(Zeroizing::new([0; KEY_BYTES])));
        key.0.copy_from_slice(bytes);
        key
    }
}

impl Deref for AuthKey {
    type Target = [u8; KEY_BYTES];

    fn deref(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_stays_where_it_was_written() {
        let key = AuthKey::read(&[7; KEY_BYTES]).expect("so many bytes");
        let place = key.as_ptr();
        let [handed_on] = [key];
        assert_eq!((handed_on.as_ptr(), *handed_on), (place, [7; KEY_BYTES]));
        assert_eq!(format!("{handed_on:?}"), "AuthKey([redacted])");
        assert!(AuthKey::read(&[7; KEY_BYTES - 1]).is_none() && AuthKey::read(&[7; KEY_BYTES + 1]).is_none());
    }
}
