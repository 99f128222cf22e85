//! What a session presents in order to impersonate a user: a token, or a name.

use crate::core::identity::Identity;
use crate::core::token::Digest;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Token,
    /// The login itself is the credential.
    Name,
}

/// What stands for a user.
#[derive(Clone)]
pub enum Credential {
    Token(Digest),
    Name(Identity),
}

impl Credential {
    pub fn kind(&self) -> Kind {
        match self {
            Credential::Token(_) => Kind::Token,
            Credential::Name(_) => Kind::Name,
        }
    }

    pub fn digest(&self) -> Digest {
        match self {
            Credential::Token(digest) => *digest,
            Credential::Name(Identity { iamid, userid }) => Digest::of_name(iamid, userid),
        }
    }
}

/// A user who was presented.
#[derive(Clone)]
pub struct Presented {
    pub credential: Credential,
    pub is_well_formed: bool,
    /// For the transaction only.
    pub is_local: bool,
    /// In the options of the connection, not by a statement.
    pub is_of_connection: bool,
}

/// The parameter that carries a token.
pub const TOKEN_PARAMETER: &str = "bodata.impersonation_token";

/// The parameters that carry a name.
pub const NAME_PARAMETERS: [&str; 3] =
    ["immuta.impersonation_userid", "immuta.immuta_user", "immuta.impersonate.user"];

/// The parameters that say how a name is to be understood.
const NAME_OPTIONS: [&str; 2] = ["immuta.impersonation_iamid", "immuta.impersonation_userid_template"];

/// What a parameter carries, if it says whom to impersonate.
pub fn kind_of(parameter: &str) -> Option<Kind> {
    if parameter.eq_ignore_ascii_case(TOKEN_PARAMETER) {
        Some(Kind::Token)
    } else if NAME_PARAMETERS.iter().any(|name| parameter.eq_ignore_ascii_case(name)) {
        Some(Kind::Name)
    } else {
        None
    }
}

/// Whether a parameter only says how the next name is to be understood.
pub fn is_name_option(parameter: &str) -> bool {
    NAME_OPTIONS.iter().any(|name| parameter.eq_ignore_ascii_case(name))
}

/// Whether somebody wrote SQL's NULL as a text, as other platforms end an impersonation.
pub fn is_null_as_text(name: &[u8]) -> bool {
    name.eq_ignore_ascii_case(b"null")
}

/// Whom a session has impersonated so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Seen<T> {
    #[default]
    Nobody,
    One(T),
    Several,
}

impl<T: PartialEq> Seen<T> {
    /// Whether this user is the only one so far, or would be the first.
    pub fn allows(&self, user: &T) -> bool {
        match self {
            Seen::Nobody => true,
            Seen::One(first) => first == user,
            Seen::Several => false,
        }
    }

    pub fn note(&mut self, user: T) {
        *self = if self.allows(&user) { Seen::One(user) } else { Seen::Several };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_known_in_any_case() {
        assert_eq!(kind_of("BODATA.Impersonation_Token"), Some(Kind::Token));
        for name in ["immuta.impersonation_userid", "Immuta.immuta_user", "immuta.impersonate.USER"] {
            assert_eq!(kind_of(name), Some(Kind::Name), "{name}");
        }
        assert!(is_name_option("immuta.Impersonation_IAMID") && !is_name_option("immuta.immuta_user"));
        assert_eq!(kind_of("immuta.impersonation_iamid"), None);
    }

    #[test]
    fn null_is_no_user() {
        assert!(is_null_as_text(b"NULL") && is_null_as_text(b"null") && !is_null_as_text(b"nullify"));
    }

    #[test]
    fn the_first_user_stays_the_only_one() {
        let mut seen = Seen::default();
        assert!(seen.allows(&1));
        seen.note(1);
        seen.note(1);
        assert!(seen.allows(&1) && !seen.allows(&2));
        seen.note(2);
        assert!(!seen.allows(&1) && !seen.allows(&2));
        seen.note(1);
        assert_eq!(seen, Seen::Several);
    }
}
