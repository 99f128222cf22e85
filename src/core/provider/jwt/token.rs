//! A signed token in compact form (RFC 7515): taken apart strictly, and verified.

use super::fault::Fault;
use super::json::Json;
use super::keys::{Algorithm, KeySet, is_kid};
use crate::core::token::Digest;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// A token that nobody has verified yet.
pub struct Token<'a> {
    signed: &'a [u8],
    signature: Vec<u8>,
    header: Json,
    /// What it says. Not to be believed before [`Token::verify`].
    pub claims: Json,
}

/// Whether a text looks like a signed token: then it is one, or nothing.
pub fn has_shape(token: &str) -> bool {
    token.matches('.').count() == 2
}

impl<'a> Token<'a> {
    pub fn read(token: &'a str) -> Result<Token<'a>, Fault> {
        let parts: Vec<&str> = token.splitn(4, '.').collect();
        let [head, body, signature] = parts[..] else { return Err(Fault::Form) };
        // Neither padding nor bits that say nothing: one token has one spelling.
        let bytes = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| Fault::Form);
        let (signature, head_bytes, body_bytes) = (bytes(signature)?, bytes(head)?, bytes(body)?);
        let object = |bytes: &[u8]| Json::read(bytes).filter(|json| json.members().is_some());
        let header = object(&head_bytes).ok_or(Fault::Header)?;
        let claims = object(&body_bytes).ok_or(Fault::Payload)?;
        Ok(Token { signed: &token.as_bytes()[..head.len() + 1 + body.len()], signature, header, claims })
    }

    /// Of what is signed: the signature has more than one spelling (ECDSA).
    pub fn digest(&self) -> Digest {
        Digest::of(self.signed)
    }

    pub fn issuer(&self) -> Result<&str, Fault> {
        self.claims.member("iss").and_then(Json::text).ok_or(Fault::NoIssuer)
    }

    pub fn algorithm(&self, accepted: &[Algorithm]) -> Result<Algorithm, Fault> {
        let named = self.header.member("alg").and_then(Json::text).and_then(Algorithm::parse);
        named.filter(|algorithm| accepted.contains(algorithm)).ok_or(Fault::Algorithm)
    }

    /// Neither encrypted nor compressed nor nested, and nothing in it that a reader would have to know.
    pub fn check_extensions(&self) -> Result<(), Fault> {
        let has = |name: &str| {
            self.header.members().is_some_and(|members| members.iter().any(|(known, _)| known == name))
        };
        if ["crit", "b64", "zip", "enc", "cty"].into_iter().any(has) { Err(Fault::Extension) } else { Ok(()) }
    }

    /// `application/` and case do not count (RFC 7515, 4.1.9). A token without a type is a plain one.
    pub fn check_type(&self, accepted: &[String]) -> Result<(), Fault> {
        let own = match self.header.member("typ") {
            None => "JWT",
            Some(named) => named.text().ok_or(Fault::Header)?,
        };
        let short = |name: &str| {
            let prefix = name.get(..12).filter(|start| start.eq_ignore_ascii_case("application/"));
            name[prefix.map_or(0, str::len)..].to_ascii_lowercase()
        };
        let own = short(own);
        if accepted.iter().any(|name| short(name) == own) { Ok(()) } else { Err(Fault::Type) }
    }

    pub fn kid(&self) -> Result<Option<&str>, Fault> {
        match self.header.member("kid") {
            None => Ok(None),
            Some(kid) => kid.text().filter(|kid| is_kid(kid)).map(Some).ok_or(Fault::Header),
        }
    }

    /// Whether the set has a key that the token can be signed with.
    pub fn finds_key(&self, keys: &KeySet, accepted: &[Algorithm]) -> Result<bool, Fault> {
        Ok(keys.candidates(self.kid()?, self.algorithm(accepted)?, accepted).next().is_some())
    }

    pub fn verify(&self, keys: &KeySet, accepted: &[Algorithm]) -> Result<(), Fault> {
        let algorithm = self.algorithm(accepted)?;
        let mut candidates = keys.candidates(self.kid()?, algorithm, accepted).peekable();
        if candidates.peek().is_none() {
            return Err(Fault::Key);
        }
        let is_signed = candidates.any(|key| key.verifies(algorithm, self.signed, &self.signature));
        if is_signed { Ok(()) } else { Err(Fault::Signature) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::keys::ALGORITHMS;
    use super::*;

    /// RFC 7515, A.3; RFC 8037, A.4 has no claims.
    const ES256: &str = concat!(
        "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.",
        "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q"
    );
    const P256: &str = r#"{"keys":[{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}]}"#;

    fn all() -> Vec<Algorithm> {
        ALGORITHMS.iter().map(|(_, algorithm)| *algorithm).collect()
    }

    fn with_header(header: &str) -> String {
        let (_, rest) = ES256.split_once('.').unwrap_or_default();
        format!("{}.{rest}", URL_SAFE_NO_PAD.encode(header))
    }

    fn verified(token: &str) -> Result<(), Fault> {
        let keys = KeySet::read(P256.as_bytes()).unwrap_or_default();
        let token = Token::read(token)?;
        token.check_extensions()?;
        token.verify(&keys, &all())
    }

    #[test]
    fn the_example_of_the_standard() {
        assert_eq!(verified(ES256), Ok(()));
        assert_eq!(Token::read(ES256).and_then(|token| token.issuer().map(str::to_owned)), Ok("joe".into()));
    }

    #[test]
    fn a_token_has_one_spelling() {
        for bad in [
            format!("{ES256}="),
            format!("{ES256}."),
            format!(".{ES256}"),
            format!("{ES256}\n"),
            format!(" {ES256}"),
            ES256.replace('-', "+"),
            ES256.replacen("NU1Q", "NU1R", 1),
            ES256.rsplit_once('.').map(|(signed, _)| signed.to_owned()).unwrap_or_default(),
            ".".repeat(1_000_000),
            String::new(),
            r#"{"payload":"","signatures":[]}"#.into(),
        ] {
            assert_eq!(verified(&bad), Err(Fault::Form), "{bad:.80}");
        }
        assert_eq!(
            verified(&format!("{}.", ES256.rsplit_once('.').map_or("", |(signed, _)| signed))),
            Err(Fault::Signature)
        );
    }

    /// Whatever becomes of a good token on its way, it is no other good token.
    #[test]
    fn no_change_goes_unnoticed() {
        let mut random = 0x2545_f491_4f6c_dd1d_u64;
        let mut below = |limit: usize| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            (random % limit as u64) as usize
        };
        for _ in 0..3000 {
            let mut changed = ES256.as_bytes().to_vec();
            for _ in 0..=below(3) {
                let at = below(changed.len());
                match below(4) {
                    0 => changed[at] = b"ABCXYZabcxyz0189-_.= {}\""[below(24)],
                    1 => drop(changed.remove(at)),
                    2 => changed.insert(at, b"Az09-_."[below(7)]),
                    _ => changed[at..].reverse(),
                }
            }
            if changed != ES256.as_bytes() {
                assert!(verified(&String::from_utf8_lossy(&changed)).is_err());
            }
        }
    }

    #[test]
    fn the_algorithm_is_that_of_the_key() {
        for bad in ["none", "None", "NONE", "nOnE", "", "HS256", "es256", "ES512", "ES256K"] {
            assert_eq!(verified(&with_header(&format!(r#"{{"alg":"{bad}"}}"#))), Err(Fault::Algorithm), "{bad}");
        }
        assert_eq!(verified(&with_header("{}")), Err(Fault::Algorithm));
        for bad in ["RS256", "ES384", "EdDSA"] {
            assert_eq!(verified(&with_header(&format!(r#"{{"alg":"{bad}"}}"#))), Err(Fault::Key), "{bad}");
        }
        for bad in [r#"{"alg":"ES256","kid":"x"}"#, r#"{"alg":"ES256","kid":"../../x' OR 1=1"}"#] {
            assert_eq!(verified(&with_header(bad)), Err(Fault::Key), "{bad}");
        }
        let long = format!(r#"{{"alg":"ES256","kid":"{}"}}"#, "x".repeat(10_000));
        for bad in [
            r#"{"alg":"ES256","kid":7}"#,
            r#"{"alg":"ES256","kid":["x"]}"#,
            r#"{"alg":"ES256","kid":"a\u0000b"}"#,
            &long,
        ] {
            assert_eq!(verified(&with_header(bad)), Err(Fault::Header), "{bad:.60}");
        }
    }

    #[test]
    fn a_header_says_nothing_that_has_to_be_known() {
        for bad in [
            r#""crit":["x"]"#,
            r#""crit":[]"#,
            r#""crit":null"#,
            r#""b64":false"#,
            r#""zip":"DEF""#,
            r#""enc":"A256GCM""#,
            r#""cty":"JWT""#,
        ] {
            assert_eq!(
                verified(&with_header(&format!(r#"{{"alg":"ES256",{bad}}}"#))),
                Err(Fault::Extension),
                "{bad}"
            );
        }
        for bad in [r#"{"alg":"ES256","alg":"ES256"}"#, "[]", "7", "\u{feff}{}", "{\"alg\":\"ES256\"}x"] {
            assert_eq!(verified(&with_header(bad)), Err(Fault::Header), "{bad}");
        }
        // A key that the token brings is not looked at.
        assert_eq!(verified(&with_header(r#"{"alg":"ES256","jwk":{"kty":"EC"}}"#)), Err(Fault::Signature));
    }

    #[test]
    fn a_type_is_compared_without_its_family_and_case() {
        let typed = |typ: &str, accepted: &[&str]| {
            let accepted: Vec<String> = accepted.iter().map(|name| (*name).to_owned()).collect();
            let token = with_header(&format!(r#"{{"alg":"ES256"{typ}}}"#));
            Token::read(&token).and_then(|token| token.check_type(&accepted))
        };
        for fine in ["at+jwt", "AT+JWT", "application/at+jwt", "Application/AT+jwt"] {
            assert_eq!(typed(&format!(r#","typ":"{fine}""#), &["at+jwt"]), Ok(()), "{fine}");
        }
        for bad in ["JWT", "logout+jwt", "id+jwt", "secevent+jwt", "dpop+jwt", "application/", "", "étyp+jwt-x-é"]
        {
            assert_eq!(typed(&format!(r#","typ":"{bad}""#), &["at+jwt"]), Err(Fault::Type), "{bad}");
        }
        assert_eq!(typed("", &["at+jwt"]), Err(Fault::Type));
        assert_eq!(typed("", &["at+jwt", "jwt"]), Ok(()));
        assert_eq!(typed(r#","typ":7"#, &["JWT"]), Err(Fault::Header));
    }

    #[test]
    fn each_fault_has_its_words() {
        let last = Fault::Actor;
        assert_eq!(last as usize + 1, Fault::COUNT);
        assert!(last.is_of_a_valid_token() && !Fault::Revoked.is_of_a_valid_token());
        assert!(!last.why().is_empty() && !last.hint().is_empty());
    }
}
