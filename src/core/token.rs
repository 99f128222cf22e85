//! Tokens: secrets that are compared by digest and never shown.

use ring::digest::{SHA256, digest};
use std::hash::{BuildHasherDefault, Hasher};
use zeroize::Zeroizing;

/// Longest token accepted, in bytes. JSON Web Tokens with many claims stay well below it.
pub const MAX_BYTES: usize = 16 * 1024;

/// SHA-256 of a token: what the token table stores and the cache is keyed by. A preimage-resistant digest of a
/// random secret may be compared and hashed in ordinary ways.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    pub fn of(token: &[u8]) -> Digest {
        Digest::sha_256(token)
    }

    fn sha_256(bytes: &[u8]) -> Digest {
        let mut sum = [0; 32];
        sum.copy_from_slice(digest(&SHA256, bytes).as_ref());
        Digest(sum)
    }

    /// The key of a user presented by name. No token has a NUL byte: none has this digest.
    pub fn of_name(iamid: &str, userid: &str) -> Digest {
        Digest::sha_256(&[iamid.as_bytes(), userid.as_bytes()].join(&0))
    }
}

/// The text of a well-formed token, for a provider that must be sent it. Wiped when it is let go; neither Debug nor
/// Display nor Serialize.
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// `None` for bytes that are no token.
    pub fn of(token: &[u8]) -> Option<Secret> {
        let text = std::str::from_utf8(token).ok().filter(|_| is_well_formed(token))?;
        Some(Secret(Zeroizing::new(text.to_owned())))
    }

    pub fn reveal(&self) -> &str {
        &self.0
    }
}

/// Whether these bytes can be a token at all: 1 to [`MAX_BYTES`] visible ASCII characters, which covers the
/// `b64token` of RFC 6750 and leaves no byte that could end a header or be read differently in another encoding.
pub fn is_well_formed(token: &[u8]) -> bool {
    // All of it, which is done many bytes at a time: faster than to stop at the first.
    let is_visible = token.iter().fold(true, |all, byte| all & byte.is_ascii_graphic());
    !token.is_empty() && token.len() <= MAX_BYTES && is_visible
}

/// A digest is uniformly distributed already: its first eight bytes serve as the hash.
#[derive(Default)]
pub struct DigestHasher(u64);

impl Hasher for DigestHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        if let Some(first) = bytes.first_chunk::<8>() {
            self.0 = u64::from_ne_bytes(*first);
        }
    }

    /// The length prefix of the array says nothing.
    fn write_usize(&mut self, _: usize) {}
}

pub type BuildDigestHasher = BuildHasherDefault<DigestHasher>;

#[cfg(test)]
mod tests {
    use super::*;
    use std::hash::BuildHasher;

    #[test]
    fn only_visible_ascii_is_a_token() {
        assert!(is_well_formed(b"a.b-c_d~e+f/g=="));
        assert!(is_well_formed(&vec![b'x'; MAX_BYTES]));
        for bad in [&b""[..], b"a b", b"a\r\nb", b"a\0b", b"\xff", "é".as_bytes(), b"a\t", b"\x7f"] {
            assert!(!is_well_formed(bad), "{bad:?}");
        }
        assert!(!is_well_formed(&vec![b'x'; MAX_BYTES + 1]));
    }

    #[test]
    fn only_a_token_becomes_a_secret() {
        assert_eq!(Secret::of(b"abc").map(|secret| secret.reveal().len()), Some(3));
        assert!(Secret::of(b"").is_none() && Secret::of(b"a\r\nHost: b").is_none());
    }

    #[test]
    fn digest_is_sha_256() {
        let expected = [0xba, 0x78, 0x16, 0xbf, 0x8f, 0x01, 0xcf, 0xea];
        assert_eq!(Digest::of(b"abc").0[..8], expected);
    }

    #[test]
    fn different_digests_hash_differently() {
        let build = BuildDigestHasher::default();
        assert_ne!(build.hash_one(Digest::of(b"a")), build.hash_one(Digest::of(b"b")));
    }
}
