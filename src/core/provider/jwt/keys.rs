//! The public keys of an issuer: a JWK set (RFC 7517). What cannot be used is skipped: one bad key does not spoil the set.

use super::json::Json;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{self as sig, RsaPublicKeyComponents, UnparsedPublicKey};
use serde::Serialize;

/// Most keys of a set, and most that are tried for one token.
const MAX_KEYS: usize = 64;
const MAX_TRIED: usize = 4;
pub const MAX_KID_BYTES: usize = 255;

/// What a token may be signed with. Never symmetric, never nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Ps384,
    Ps512,
    Es256,
    Es384,
    EdDsa,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    Rsa,
    P256,
    P384,
    Ed25519,
}

pub const ALGORITHMS: [(&str, Algorithm); 9] = [
    ("RS256", Algorithm::Rs256),
    ("RS384", Algorithm::Rs384),
    ("RS512", Algorithm::Rs512),
    ("PS256", Algorithm::Ps256),
    ("PS384", Algorithm::Ps384),
    ("PS512", Algorithm::Ps512),
    ("ES256", Algorithm::Es256),
    ("ES384", Algorithm::Es384),
    ("EdDSA", Algorithm::EdDsa),
];

impl Algorithm {
    /// By its registered name, in its case. `Ed25519` (RFC 9864) is what `EdDSA` means here.
    pub fn parse(name: &str) -> Option<Algorithm> {
        let name = if name == "Ed25519" { "EdDSA" } else { name };
        ALGORITHMS.iter().find(|(known, _)| *known == name).map(|(_, algorithm)| *algorithm)
    }

    pub fn name(self) -> &'static str {
        ALGORITHMS.iter().find(|(_, known)| *known == self).map_or("", |(name, _)| name)
    }

    fn family(self) -> Family {
        match self {
            Algorithm::Es256 => Family::P256,
            Algorithm::Es384 => Family::P384,
            Algorithm::EdDsa => Family::Ed25519,
            _ => Family::Rsa,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Material {
    Rsa {
        n: Vec<u8>,
        e: Vec<u8>,
    },
    /// A point, as ring wants it.
    Curve(Family, Vec<u8>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    pub kid: Option<String>,
    /// The only one that it is for, if it says so.
    pub algorithm: Option<Algorithm>,
    material: Material,
}

impl Key {
    fn read(jwk: &Json) -> Option<Key> {
        jwk.members()?;
        // Whoever publishes a private key has none.
        if ["d", "p", "q", "dp", "dq", "qi", "oth", "k"].iter().any(|secret| jwk.member(secret).is_some()) {
            return None;
        }
        let text = |member: &str| jwk.member(member).map(|value| value.text().ok_or(())).transpose().ok();
        if text("use")?.is_some_and(|purpose| purpose != "sig") {
            return None;
        }
        if let Some(operations) = jwk.member("key_ops")
            && !operations.list()?.iter().any(|operation| operation.text() == Some("verify"))
        {
            return None;
        }
        let kid = text("kid")?.map(str::to_owned);
        if kid.as_ref().is_some_and(|kid| !is_kid(kid)) {
            return None;
        }
        let algorithm = match text("alg")? {
            Some(name) => Some(Algorithm::parse(name)?),
            None => None,
        };
        let bytes = |member: &str| text(member)?.and_then(|text| URL_SAFE_NO_PAD.decode(text).ok());
        let sized = |member: &str, size| bytes(member).filter(|bytes| bytes.len() == size);
        let point = |family, size| {
            let point = [vec![4], sized("x", size)?, sized("y", size)?].concat();
            Some(Material::Curve(family, point))
        };
        let material = match (text("kty")??, text("crv")?) {
            ("RSA", _) => {
                let (n, e) = (bytes("n")?, bytes("e")?);
                let is_strong = (256..=1024).contains(&n.len()) && n[0] != 0 && (n.len() > 256 || n[0] >= 0x80);
                let is_odd = e.last().is_some_and(|last| last & 1 == 1) && e[0] != 0 && e != [1] && e.len() <= 4;
                (is_strong && is_odd).then_some(Material::Rsa { n, e })?
            }
            ("EC", Some("P-256")) => point(Family::P256, 32)?,
            ("EC", Some("P-384")) => point(Family::P384, 48)?,
            ("OKP", Some("Ed25519")) => Material::Curve(Family::Ed25519, sized("x", 32)?),
            _ => return None,
        };
        let key = Key { kid, algorithm, material };
        algorithm.is_none_or(|algorithm| algorithm.family() == key.family()).then_some(key)
    }

    fn family(&self) -> Family {
        match &self.material {
            Material::Rsa { .. } => Family::Rsa,
            Material::Curve(family, _) => *family,
        }
    }

    pub fn kty(&self) -> &'static str {
        match self.family() {
            Family::Rsa => "RSA",
            Family::P256 | Family::P384 => "EC",
            Family::Ed25519 => "OKP",
        }
    }

    /// The one algorithm for which the key counts: its own, else the first of the accepted ones that it can be for.
    pub fn algorithm_among(&self, accepted: &[Algorithm]) -> Option<Algorithm> {
        match self.algorithm {
            Some(own) => Some(own).filter(|own| accepted.contains(own)),
            None => accepted.iter().copied().find(|algorithm| algorithm.family() == self.family()),
        }
    }

    pub fn verifies(&self, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> bool {
        let rsa = |how| match &self.material {
            Material::Rsa { n, e } => RsaPublicKeyComponents { n, e }.verify(how, message, signature).is_ok(),
            Material::Curve(..) => false,
        };
        let curve = |family: Family, how: &'static dyn sig::VerificationAlgorithm| match &self.material {
            Material::Curve(own, point) if *own == family => {
                UnparsedPublicKey::new(how, point).verify(message, signature).is_ok()
            }
            _ => false,
        };
        match algorithm {
            Algorithm::Rs256 => rsa(&sig::RSA_PKCS1_2048_8192_SHA256),
            Algorithm::Rs384 => rsa(&sig::RSA_PKCS1_2048_8192_SHA384),
            Algorithm::Rs512 => rsa(&sig::RSA_PKCS1_2048_8192_SHA512),
            Algorithm::Ps256 => rsa(&sig::RSA_PSS_2048_8192_SHA256),
            Algorithm::Ps384 => rsa(&sig::RSA_PSS_2048_8192_SHA384),
            Algorithm::Ps512 => rsa(&sig::RSA_PSS_2048_8192_SHA512),
            Algorithm::Es256 => curve(Family::P256, &sig::ECDSA_P256_SHA256_FIXED),
            Algorithm::Es384 => curve(Family::P384, &sig::ECDSA_P384_SHA384_FIXED),
            Algorithm::EdDsa => curve(Family::Ed25519, &sig::ED25519),
        }
    }

    fn written(&self) -> Written<'_> {
        let text = |bytes: &[u8]| Some(URL_SAFE_NO_PAD.encode(bytes));
        let mut written = Written { kid: self.kid.as_deref(), kty: self.kty(), ..Written::default() };
        written.alg = self.algorithm.map(Algorithm::name);
        match &self.material {
            Material::Rsa { n, e } => (written.n, written.e) = (text(n), text(e)),
            Material::Curve(Family::Ed25519, point) => (written.crv, written.x) = (Some("Ed25519"), text(point)),
            Material::Curve(family, point) => {
                let (x, y) = point[1..].split_at((point.len() - 1) / 2);
                written.crv = Some(if *family == Family::P256 { "P-256" } else { "P-384" });
                (written.x, written.y) = (text(x), text(y));
            }
        }
        written
    }
}

/// Whether this can be the id of a key: short and printable.
pub fn is_kid(kid: &str) -> bool {
    kid.len() <= MAX_KID_BYTES && !kid.chars().any(char::is_control)
}

#[derive(Default, Serialize)]
struct Written<'a> {
    kty: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    kid: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    alg: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    crv: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    n: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    e: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    x: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    y: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeySet(Vec<Key>);

impl KeySet {
    /// The usable keys of a JWK set; `None` if there is none.
    pub fn read(text: &[u8]) -> Option<KeySet> {
        KeySet::of(&Json::read(text)?)
    }

    pub fn of(set: &Json) -> Option<KeySet> {
        let keys: Vec<Key> = set.member("keys")?.list()?.iter().filter_map(Key::read).take(MAX_KEYS).collect();
        (!keys.is_empty()).then_some(KeySet(keys))
    }

    pub fn keys(&self) -> &[Key] {
        &self.0
    }

    /// The keys with which a token may have been signed that names this key, or none, and this algorithm.
    pub fn candidates<'a>(
        &'a self,
        kid: Option<&'a str>,
        algorithm: Algorithm,
        accepted: &'a [Algorithm],
    ) -> impl Iterator<Item = &'a Key> {
        self.0
            .iter()
            .filter(move |key| kid.is_none_or(|kid| key.kid.as_deref() == Some(kid)))
            .filter(move |key| key.algorithm_among(accepted) == Some(algorithm))
            .take(MAX_TRIED)
    }

    /// As a JWK set of at most `limit` bytes, with nothing in it but what is used.
    pub fn written(&self, limit: usize) -> String {
        let mut text = String::from(r#"{"keys":["#);
        for key in &self.0 {
            let key = serde_json::to_string(&key.written()).unwrap_or_default();
            if text.len() + key.len() + 3 > limit {
                break;
            }
            if !text.ends_with('[') {
                text.push(',');
            }
            text.push_str(&key);
        }
        text + "]}"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EC: &str = r#"{"kty":"EC","crv":"P-256","kid":"1","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0""#;
    const ED: &str = r#"{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;

    fn set(keys: &str) -> Option<KeySet> {
        KeySet::read(format!(r#"{{"keys":[{keys}]}}"#).as_bytes())
    }

    #[test]
    fn bad_keys_are_skipped() {
        for bad in [
            r#","use":"enc"}"#,
            r#","use":7}"#,
            r#","key_ops":["encrypt"]}"#,
            r#","key_ops":"verify"}"#,
            r#","d":"AQ"}"#,
            r#","alg":"RS256"}"#,
            r#","alg":"none"}"#,
            r#","alg":"HS256"}"#,
            r#","kid":"2"}"#,
            r#","x5c":["%%%"]"#,
        ] {
            assert_eq!(set(&format!("{EC}{bad}")), None, "{bad}");
            assert_eq!(
                set(&format!("{EC}{bad},{ED}")).map_or(0, |set| set.0.len()),
                usize::from(bad.ends_with('}'))
            );
        }
        for bad in [
            r#"{"kty":"oct","k":"c2VjcmV0"}"#.to_owned(),
            r#"{"kty":"EC","crv":"P-521","x":"AQ","y":"AQ"}"#.to_owned(),
            r#"{"kty":"EC","crv":"P-256","x":"AQ","y":"AQ"}"#.to_owned(),
            ED.replace("11qY", "1"),
            format!(r#"{{"kty":"RSA","n":"{}","e":"AQAB"}}"#, "x".repeat(170) + "w"),
            format!(r#"{{"kty":"RSA","n":"{}","e":"AQ"}}"#, "x".repeat(341) + "w"),
            format!(r#"{{"kty":"RSA","n":"{}","e":"AAAB"}}"#, "x".repeat(341) + "w"),
            "7".to_owned(),
            "[]".to_owned(),
        ] {
            assert_eq!(set(&bad), None, "{bad:.60}");
        }
        for none in ["", "{}", "[]", r#"{"keys":{}}"#, r#"{"keys":[]}"#, r#"{"keys":[],"keys":[]}"#] {
            assert_eq!(KeySet::read(none.as_bytes()), None, "{none}");
        }
    }

    #[test]
    fn a_set_is_bounded_and_read_again_as_it_was_written() {
        let many = set(&vec![ED; 10_000].join(",")).unwrap_or_default();
        assert_eq!(many.0.len(), MAX_KEYS);
        let both = set(&format!(r#"{EC},"alg":"ES256","x5t":"?"}},{ED}"#)).unwrap_or_default();
        assert_eq!(KeySet::read(both.written(1 << 16).as_bytes()), Some(both.clone()));
        assert!(many.written(500).len() <= 500);
        assert!(KeySet::read(many.written(500).as_bytes()).is_some_and(|some| some.0.len() > 1));
    }

    #[test]
    fn a_key_is_for_one_algorithm() {
        let accepted = [Algorithm::Ps256, Algorithm::Rs256, Algorithm::Es256, Algorithm::EdDsa];
        let rsa = format!(r#"{{"kty":"RSA","kid":"r","n":"{}","e":"AQAB"}}"#, "x".repeat(341) + "w");
        let own = rsa.replace(r#""kid":"r""#, r#""kid":"own","alg":"RS256""#);
        let keys = set(&format!("{rsa},{EC}}},{ED},{ED},{own}")).unwrap_or_default();
        let count = |kid, algorithm| keys.candidates(kid, algorithm, &accepted).count();
        assert_eq!(count(Some("r"), Algorithm::Ps256), 1);
        assert_eq!(count(Some("r"), Algorithm::Rs256), 0, "only the first that is accepted");
        assert_eq!(count(Some("own"), Algorithm::Rs256), 1, "what it says itself comes first");
        assert_eq!(count(Some("own"), Algorithm::Ps256), 0);
        assert_eq!(count(None, Algorithm::EdDsa), 2);
        assert_eq!(count(Some("1"), Algorithm::Es256), 1);
        assert_eq!(count(Some("1"), Algorithm::Es384), 0);
        assert_eq!(count(Some("r"), Algorithm::Es256), 0);
        assert_eq!(
            set(&[ED; 9].join(",")).map_or(0, |set| set.candidates(None, Algorithm::EdDsa, &accepted).count()),
            4
        );
    }

    #[test]
    fn algorithms_have_their_registered_names() {
        for (name, algorithm) in ALGORITHMS {
            assert_eq!((Algorithm::parse(name), algorithm.name()), (Some(algorithm), name));
        }
        assert_eq!(Algorithm::parse("Ed25519"), Some(Algorithm::EdDsa));
        for bad in ["none", "None", "", "HS256", "rs256", "ES512", "ES256K", "Ed448", "RS1"] {
            assert_eq!(Algorithm::parse(bad), None, "{bad}");
        }
    }
}
