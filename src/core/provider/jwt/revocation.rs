//! By what tokens are revoked.

use super::json::{name, time};
use super::token::Token;
use crate::core::identity::Identity;
use crate::core::time::Timestamp;
use crate::core::token::Digest;

/// A digest of what was revoked.
pub type RevocationKey = [u8; 32];

/// By what a token is revoked: its issuer and id or, without an id, what was signed.
pub fn revocation(issuer: &str, token_id: Option<&str>, signed: Digest) -> RevocationKey {
    let revoked = match token_id {
        Some(id) => Digest::of(&[b"jti", issuer.as_bytes(), id.as_bytes()].join(&0)),
        None => Digest::of(&[&b"signed\0"[..], &signed.0].concat()),
    };
    revoked.0
}

/// By what all tokens of a user are revoked that were issued before.
pub fn revocation_of_user(identity: &Identity) -> RevocationKey {
    Digest::of(&[b"user", identity.iamid.as_bytes(), identity.userid.as_bytes()].join(&0)).0
}

/// By what the administrator revokes a token, and until when, as its own claims say. Nobody verified it.
pub fn revocation_of(token: &Token) -> Option<(String, RevocationKey, Option<Timestamp>)> {
    let issuer = token.issuer().ok()?.to_owned();
    let token_id = token.claims.member("jti").map(name).transpose().ok()?;
    let key = revocation(&issuer, token_id.as_deref(), token.digest());
    Some((issuer, key, time(&token.claims, "exp").ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_revoked_by_issuer_and_id_or_by_what_was_signed() {
        let (one, other) = (Digest::of(b"a"), Digest::of(b"b"));
        assert!(revocation("i", Some("1"), one) == revocation("i", Some("1"), other));
        assert!(revocation("i", Some("1"), one) != revocation("j", Some("1"), one));
        assert!(revocation("i", None, one) != revocation("i", None, other));
        assert!(revocation("i", None, one) == revocation("j", None, one));
    }
}
