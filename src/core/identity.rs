//! Who is impersonated, and how that user is mapped to a role.

use crate::core::provider::jwt::claims::Claims;
use crate::core::time::Timestamp;
use std::rc::Rc;

/// A user of Immuta: the pair of identity manager and user id. Both are compared byte by byte.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Identity {
    pub iamid: String,
    pub userid: String,
}

/// Longest `iamid` and `userid`, in bytes: what the tables hold, too.
pub const MAX_BYTES: usize = 255;

impl Identity {
    /// Of names in UTF-8, as SQL hands them over.
    pub fn of_bytes(userid: &[u8], iamid: &[u8]) -> Identity {
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        Identity { iamid: text(iamid), userid: text(userid) }
    }

    /// Whether a name from outside can be one: 1 to [`MAX_BYTES`] bytes without control characters.
    pub fn is_well_formed(name: &str) -> bool {
        (1..=MAX_BYTES).contains(&name.len()) && !name.chars().any(char::is_control)
    }
}

/// What names a user to people.
pub struct Label<'a> {
    pub application: &'a str,
    pub identity: &'a Identity,
    pub role: &'a str,
}

impl Label<'_> {
    /// The template with what is known in place of `{application_name}`, `{userid}`, `{iamid}` and `{role}`. What was
    /// put in is not looked at again.
    pub fn fill(&self, template: &str) -> String {
        let mut filled = String::new();
        let mut rest = template;
        while let Some(at) = rest.find('{') {
            filled.push_str(&rest[..at]);
            rest = &rest[at..];
            let known = [
                ("{application_name}", self.application),
                ("{userid}", &self.identity.userid),
                ("{iamid}", &self.identity.iamid),
                ("{role}", self.role),
            ];
            match known.iter().find(|(name, _)| rest.starts_with(name)) {
                Some((name, value)) => {
                    filled.push_str(value);
                    rest = &rest[name.len()..];
                }
                None => {
                    filled.push('{');
                    rest = &rest[1..];
                }
            }
        }
        filled + rest
    }
}

/// How a user reaches a PostgreSQL role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mapping {
    /// A row names the role, by OID: renaming keeps it, dropping ends it.
    Explicit(u32),
    /// No row decides: the role that the provider names, or that has the user's name, if that is allowed.
    ByName,
    /// The administrator said "none".
    Unmapped,
}

/// Where a token was resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Provider {
    Local,
    Immuta,
    Introspection,
    /// By the published keys of its issuer.
    Jwt,
    /// Nowhere: a login that may impersonate by name named the user.
    Name,
}

impl Provider {
    pub fn name(self) -> &'static str {
        match self {
            Provider::Local => "local",
            Provider::Immuta => "immuta",
            Provider::Introspection => "introspection",
            Provider::Jwt => "jwt",
            Provider::Name => "name",
        }
    }
}

/// Who vouches for a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Authority {
    /// An identity manager, by its id.
    Iam(String),
    /// The issuer of an OAuth token (RFC 7662, `iss`), which a row maps to an identity manager; empty where the
    /// answer names none.
    Issuer(String),
}

/// The user a token stands for, as the provider describes him.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    pub authority: Authority,
    pub userid: String,
    /// The role that the provider names for him.
    pub role_name: Option<String>,
}

/// What a provider answered about a token that is active.
#[derive(Clone, Debug, PartialEq)]
pub struct Resolution {
    pub provider: Provider,
    pub subject: Subject,
    /// Last use that the provider knows of.
    pub last_used: Timestamp,
    /// When the token ends whatever its use, if the provider says so.
    pub expires: Option<Timestamp>,
    /// Key of the row in the token table; 0 for tokens that have none.
    pub token_id: i64,
    /// What the token itself says of its user.
    pub claims: Option<Rc<Claims>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_names_the_user() {
        let identity = Identity { iamid: "bim".into(), userid: "{role}".into() };
        let label = Label { application: "app", identity: &identity, role: "r" };
        assert_eq!(label.fill("{application_name} as {userid}@{iamid} ({role})"), "app as {role}@bim (r)");
        assert_eq!(label.fill("{ {x} {userid"), "{ {x} {userid");
        assert_eq!(label.fill(""), "");
    }

    #[test]
    fn names_from_outside_are_short_and_printable() {
        for fine in ["a", "jdoe@example.com", "José", " spaced ", &"x".repeat(MAX_BYTES)] {
            assert!(Identity::is_well_formed(fine), "{fine:?}");
        }
        for bad in ["", "a\0b", "a\nb", "\u{7f}", "\u{85}", &"x".repeat(MAX_BYTES + 1)] {
            assert!(!Identity::is_well_formed(bad), "{bad:?}");
        }
    }
}
