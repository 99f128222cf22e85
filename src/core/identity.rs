//! Who is impersonated, and how that user is mapped to a role.

use crate::core::template;
use std::ffi::CString;
use std::hash::{Hash, Hasher};

/// A user of Immuta: the pair of identity manager and user id. Both are compared byte by byte.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Identity {
    pub iamid: String,
    pub userid: String,
}

/// What a mapped role is called.
#[derive(Clone, Debug, Default)]
pub struct RoleName {
    pub in_server_encoding: CString,
    pub in_utf8: String,
}

impl Hash for RoleName {
    fn hash<H: Hasher>(&self, to: &mut H) {
        self.in_utf8.hash(to);
    }
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

/// The user that a name stands for. `None` for what can be no user id.
pub fn of_template(name: &str, iamid: &str, template: &str) -> Option<Identity> {
    let userid =
        if template.is_empty() { name.to_owned() } else { template::fill(template, &[("{userid}", name)]) };
    let fits = Identity::is_well_formed(&userid) && Identity::is_well_formed(iamid);
    fits.then(|| Identity { iamid: iamid.to_owned(), userid })
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

/// The user a token stands for, as the provider describes them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    pub authority: Authority,
    pub userid: String,
    /// The role that the provider names for them.
    pub role_name: Option<String>,
}

/// Who acts for the user.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Actor {
    pub id: String,
    pub issuer: Option<String>,
}

/// Who uses a token: what audit records say of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Bearer {
    pub token_id: Option<String>,
    pub client: Option<String>,
    /// The outermost, who acts now, first.
    pub actors: Vec<Actor>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_completes_the_name() {
        let user = |name, template| of_template(name, "okta", template).map(|found| found.userid);
        assert_eq!(user("jdoe", "{userid}@mycompany.com").as_deref(), Some("jdoe@mycompany.com"));
        assert_eq!(user("jdoe", "{userid}").as_deref(), Some("jdoe"));
        assert_eq!(user("{userid}", "x{userid}").as_deref(), Some("x{userid}"), "what came is not read again");
        assert_eq!(user("jdoe", "").as_deref(), Some("jdoe"));
        assert_eq!(user("a\nb", "{userid}"), None);
        assert_eq!(user(&"x".repeat(250), "{userid}@mycompany.com"), None);
        assert_eq!(of_template("jdoe", "", "{userid}"), None);
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
