//! Why a token is refused.

/// What is wrong with a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    Form,
    Header,
    Algorithm,
    Extension,
    Type,
    Payload,
    NoIssuer,
    Key,
    Signature,
    Audience,
    Expired,
    Early,
    Lifetime,
    Bound,
    Kind,
    ClaimType,
    Nobody,
    Revoked,
    // From here on the token is valid, but does not suffice.
    Issuer,
    Scope,
    Claims,
    Groups,
    Actor,
}

impl Fault {
    pub const COUNT: usize = Fault::Actor as usize + 1;

    /// Whether the token is a good one as such.
    pub fn is_of_a_valid_token(self) -> bool {
        self as usize >= Fault::Issuer as usize
    }

    pub fn why(self) -> &'static str {
        match self {
            Fault::Form => "is not three parts in base64url",
            Fault::Header => "has a header that is not the JSON object it should be",
            Fault::Algorithm => "is signed with an algorithm that is not accepted",
            Fault::Extension => "is encrypted, compressed, or needs an extension (crit)",
            Fault::Type => "has a type (typ) that is not accepted",
            Fault::Payload => "has a payload that is not a JSON object, or one with a claim twice",
            Fault::NoIssuer => "names no issuer",
            Fault::Key => "is signed with a key that its issuer does not publish for that algorithm",
            Fault::Signature => "is not signed by its issuer",
            Fault::Audience => "is meant for another audience (aud)",
            Fault::Expired => "has expired, or has no exp",
            Fault::Early => "was issued, or begins to count, in the future",
            Fault::Lifetime => "lives longer than is accepted, or does not say when it was issued (iat)",
            Fault::Bound => "is bound to a key of its holder (cnf), which cannot be checked here",
            Fault::Kind => "is not an access token",
            Fault::ClaimType => "has a claim of the wrong type",
            Fault::Nobody => "stands for no user",
            Fault::Revoked => "is revoked",
            Fault::Issuer => "is of an issuer that is not mapped",
            Fault::Scope => "lacks a scope that is required",
            Fault::Claims => "lacks a claim that is required, or has another value there",
            Fault::Groups => "leaves out the groups of its user, because there are too many",
            Fault::Actor => "is used by somebody on behalf of its user (act)",
        }
    }

    pub fn hint(self) -> &'static str {
        match self {
            Fault::Form | Fault::Header | Fault::Payload => "Present the access token as it was issued.",
            Fault::Algorithm => "See bodata.jwt_algorithms, and algorithms of immuta.map_issuer().",
            Fault::Extension => "Let the issuer sign access tokens, and not encrypt them.",
            Fault::Type => {
                "If these are access tokens, add their typ to bodata.jwt_types: JWT for Entra ID, Keycloak, Cognito."
            }
            Fault::NoIssuer | Fault::Issuer => "An administrator can accept the issuer with immuta.map_issuer().",
            Fault::Key => "See immuta.issuer_keys(); a new key is asked for once in bodata.jwt_keys_cooldown.",
            Fault::Signature => "Somebody changed the token, or made it.",
            Fault::Audience => {
                "Let the client ask for a token for this server, or add its aud to bodata.jwt_audience."
            }
            Fault::Expired => "Get a fresh token.",
            Fault::Early => "Compare the clocks of both servers; see bodata.jwt_clock_skew.",
            Fault::Lifetime => "See bodata.jwt_max_lifetime.",
            Fault::Bound => "Let the client ask for a bearer token.",
            Fault::Kind => "Clients present access tokens, not refresh, ID or logout tokens.",
            Fault::ClaimType => "See immuta.explain_token() and the claims that the settings name.",
            Fault::Nobody => "See bodata.jwt_user_claim, if this is the token of a user and not of a client.",
            Fault::Revoked => "Authenticate the user again.",
            Fault::Scope => "See bodata.jwt_required_scope.",
            Fault::Claims => "See required_claims of immuta.issuers().",
            Fault::Groups => "Let the issuer put only the groups of this application into its tokens.",
            Fault::Actor => "See bodata.jwt_actors.",
        }
    }
}
