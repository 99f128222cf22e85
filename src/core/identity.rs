//! Who is impersonated, and how that user is mapped to a role.

/// A user of Immuta: the pair of identity manager and user id. Both are compared byte by byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub iamid: String,
    pub userid: String,
}

/// How a user reaches a PostgreSQL role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mapping {
    /// A row names the role, by OID: renaming keeps it, dropping ends it.
    Explicit(u32),
    /// No row decides: the role that has the user's name, if that is allowed.
    ByUserName,
    /// The administrator said "none".
    Unmapped,
}

/// Where a token was resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Provider {
    Local,
}

impl Provider {
    pub fn name(self) -> &'static str {
        match self {
            Provider::Local => "local",
        }
    }
}

/// What a provider answered about a token that is active.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolution {
    pub provider: Provider,
    pub identity: Identity,
    pub mapping: Mapping,
    /// Last recorded use.
    pub last_used: super::time::Timestamp,
    /// Key of the row in the token table.
    pub token_id: i64,
}
