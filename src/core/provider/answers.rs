//! What token providers answer. JSON objects whose members that count are read strictly, and whose others are skipped.
//!
//! Sources: the user object of `GET /bim/rpc/user/current` (Immuta API), the introspection response (RFC 7662,
//! section 2.2).

use crate::core::identity::{Authority, Subject};
use crate::core::provider::body::Body;
use crate::core::time::Timestamp;
use std::time::Duration;

/// What is wrong with an answer.
pub type Nonsense = &'static str;

/// What a provider says of a token.
#[derive(Debug, PartialEq, Eq)]
pub enum Word {
    /// It is valid, for this user, until then.
    Active(Subject, Option<Timestamp>),
    /// It is not, or its user is disabled.
    Inactive,
    /// It is, but nobody can be impersonated by it here; why.
    Unfit(Unfit),
}

/// Why an active token is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// It stands for no user (for a client, say).
    Nobody,
    /// It is not meant for this service.
    Audience,
    /// It is not to be shown to a service, but to be exchanged for one that is.
    Kind,
    /// Its time has not come yet.
    Early,
}

impl Unfit {
    pub const COUNT: usize = 4;

    /// What an introspection response that has this fault does.
    pub fn why(self) -> &'static str {
        match self {
            Unfit::Nobody => "names no user",
            Unfit::Audience => "does not name bodata.introspection_audience",
            Unfit::Kind => "is about no access token",
            Unfit::Early => "has an nbf in the future",
        }
    }

    pub fn hint(self) -> &'static str {
        match self {
            Unfit::Nobody => "Check bodata.introspection_user_claim if this was the token of a user.",
            Unfit::Audience => "Check bodata.introspection_audience if this token was meant for this server.",
            Unfit::Kind => "Clients present access tokens, not refresh or ID tokens.",
            Unfit::Early => "Check the clocks of both servers.",
        }
    }
}

/// What an introspection response is read for.
pub struct Expected<'a> {
    /// Claims that may hold the user; the first that is there counts.
    pub user_claims: &'a [String],
    /// What `aud` must contain; empty: anything.
    pub audience: &'a str,
    pub now: Timestamp,
}

/// Reads the current user. `attribute` is the key in `profile.externalUserIds` that names the role.
pub fn immuta_user(body: &[u8], attribute: &str) -> Result<Word, Nonsense> {
    let user = Body(body);
    // First: a user must not stay enabled by what they wrote into their profile.
    if user.flag("disabled")? == Some(true) {
        return Ok(Word::Inactive);
    }
    let (Some(iamid), Some(userid)) = (user.name(&["iamid"])?, user.name(&["userid"])?) else {
        return Err("names no user");
    };
    let role_name = user.name(&["profile", "externalUserIds", attribute])?;
    Ok(Word::Active(Subject { authority: Authority::Iam(iamid), userid, role_name }, None))
}

/// How far the provider's clock may be ahead.
const LEEWAY: Duration = Duration::from_secs(30);

/// What some servers call tokens that are no access tokens: in the member of RFC 7662, or in their own.
const KINDS: [&str; 3] = ["token_type", "token_use", "typ"];

const NO_ACCESS: [&str; 7] = ["refresh", "refresh_token", "offline", "offline_token", "id", "id_token", "logout"];

/// Whether a server calls tokens so that are no access tokens.
pub fn is_no_access_token(kind: &str) -> bool {
    NO_ACCESS.iter().any(|no| kind.eq_ignore_ascii_case(no))
}

/// Reads an introspection response. Times may have a fraction.
pub fn introspection(body: &[u8], expected: &Expected) -> Result<Word, Nonsense> {
    let claims = Body(body);
    match claims.flag("active")? {
        Some(true) => {}
        Some(false) => return Ok(Word::Inactive),
        None => return Err("does not say whether the token is active"),
    }
    let issuer = claims.text(&["iss"])?.unwrap_or_default();
    let expires = claims.number("exp")?.map(Timestamp::from_unix);
    claims.number("iat")?;
    let begins = claims.number("nbf")?.map(Timestamp::from_unix);
    for kind in KINDS {
        let kind = claims.text(&[kind])?.unwrap_or_default();
        if is_no_access_token(&kind) {
            return Ok(Word::Unfit(Unfit::Kind));
        }
    }
    if begins.is_some_and(|begins| expected.now.plus(LEEWAY) < begins) {
        return Ok(Word::Unfit(Unfit::Early));
    }
    if !expected.audience.is_empty() && !claims.texts("aud")?.iter().any(|audience| audience == expected.audience)
    {
        return Ok(Word::Unfit(Unfit::Audience));
    }
    let mut user = None;
    for claim in expected.user_claims {
        user = user.or(claims.name(&[claim])?);
    }
    let Some(userid) = user else { return Ok(Word::Unfit(Unfit::Nobody)) };
    Ok(Word::Active(Subject { authority: Authority::Issuer(issuer), userid, role_name: None }, expires))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn immuta(body: &str) -> Result<Word, Nonsense> {
        immuta_user(body.as_bytes(), "postgresqlUser")
    }

    fn jdoe(role_name: Option<&str>) -> Result<Word, Nonsense> {
        let authority = Authority::Iam("bim".into());
        Ok(Word::Active(
            Subject { authority, userid: "jdoe".into(), role_name: role_name.map(str::to_owned) },
            None,
        ))
    }

    #[test]
    fn an_immuta_user_with_and_without_a_role() {
        assert_eq!(immuta(r#"{"iamid":"bim","userid":"jdoe","permissions":["A",{"x":[1]}],"id":7}"#), jdoe(None));
        assert_eq!(
            immuta(r#"{"iamid":"bim","userid":"jdoe","disabled":false,"profile":{"name":"J"}}"#),
            jdoe(None)
        );
        for unset in
            ["{}", "null", r#"{"postgresqlUser":null}"#, r#"{"postgresqlUser":""}"#, r#"{"snowflakeUser":1}"#]
        {
            let body = format!(r#"{{"iamid":"bim","userid":"jdoe","profile":{{"externalUserIds":{unset}}}}}"#);
            assert_eq!(immuta(&body), jdoe(None), "{unset}");
        }
        let body = r#"{"iamid":"bim","userid":"jdoe","profile":{"externalUserIds":{"postgresqlUser":"sales"}}}"#;
        assert_eq!(immuta(body), jdoe(Some("sales")));
        assert_eq!(immuta(r#"{"iamid":"bim","userid":"jdoe","disabled":true}"#), Ok(Word::Inactive));
    }

    #[test]
    fn an_answer_of_another_shape_is_nonsense() {
        for bad in [
            "",
            "null",
            "7",
            "[]",
            "{}",
            "<html>",
            r#"{"iamid":"bim"}"#,
            r#"{"userid":"jdoe"}"#,
            r#"{"iamid":"bim","userid":""}"#,
            r#"{"iamid":"bim","userid":7}"#,
            r#"{"iamid":"bim","userid":["jdoe"]}"#,
            r#"{"iamid":"bim","userid":"jd\u0000oe"}"#,
            r#"{"iamid":"bim","userid":"jdoe","disabled":"no"}"#,
            r#"{"iamid":"bim","userid":"jdoe","profile":"x"}"#,
            r#"{"iamid":"bim","userid":"jdoe","profile":{"externalUserIds":{"postgresqlUser":7}}}"#,
            r#"{"iamid":"bim","userid":"jdoe","userid":"root"}"#,
            r#"{"iamid":"bim","userid":"jdoe"} trailing"#,
        ] {
            assert!(immuta(bad).is_err(), "{bad}");
        }
        let long = format!(r#"{{"iamid":"bim","userid":"{}"}}"#, "x".repeat(256));
        assert!(immuta(&long).is_err());
        for (open, close) in [("[", "]"), (r#"{"a":"#, "}")] {
            let nested = |depth| format!("{}1{}", open.repeat(depth), close.repeat(depth));
            let deep = |depth| format!(r#"{{"iamid":"bim","userid":"jdoe","x":{}}}"#, nested(depth));
            assert_eq!(immuta(&deep(100)), jdoe(None));
            assert_eq!(immuta(&deep(100_000)), jdoe(None), "skipped, at no cost");
            let named = |depth| format!(r#"{{"iamid":"bim","userid":{}}}"#, nested(depth));
            assert!(immuta(&named(100)).is_err() && immuta(&named(100_000)).is_err());
            assert!(immuta(&nested(100_000)).is_err());
        }
        assert!(immuta_user(b"{\"iamid\":\"bim\",\"userid\":\"\xff\"}", "a").is_err());
    }

    /// What a user can write into their profile must not turn "disabled" into no answer.
    #[test]
    fn what_does_not_count_is_skipped() {
        let long = format!(r#"{{"name":"{}"}}"#, "x".repeat(1_000_000));
        for odd in [
            r#"{"name":"\ud800"}"#,
            r#"{"\udfff":1}"#,
            r#"{"height":1e400}"#,
            r#"{"name":"a","name":"b"}"#,
            r#"{"externalUserIds":{"other":1,"other":"\ud800"}}"#,
            &long,
        ] {
            let answer =
                |rest: &str| immuta(&format!(r#"{{"iamid":"bim","userid":"jdoe",{rest}"profile":{odd}}}"#));
            assert_eq!(answer(r#""disabled":true,"#), Ok(Word::Inactive));
            assert_eq!(answer(""), jdoe(None));
        }
        for bad in [r#"{"postgresqlUser":"\ud800"}"#, r#"{"postgresqlUser":"a","postgresqlUser":"b"}"#, "7"] {
            let answer = |rest: &str| {
                let profile = format!(r#"{{"externalUserIds":{bad}}}"#);
                immuta(&format!(r#"{{"profile":{profile},{rest}"iamid":"bim","userid":"jdoe"}}"#))
            };
            assert!(answer("").is_err(), "{bad}");
            assert_eq!(answer(r#""disabled":true,"#), Ok(Word::Inactive));
        }
        assert_eq!(introspect(r#"{"active":false,"username":"\ud800","exp":1e400}"#), Ok(Word::Inactive));
        assert_eq!(introspect(r#"{"active":true,"username":"a","note":1e400,"n":"\ud800"}"#), of("", "a", None));
    }

    fn introspect(body: &str) -> Result<Word, Nonsense> {
        introspect_for("", body)
    }

    fn introspect_for(audience: &str, body: &str) -> Result<Word, Nonsense> {
        let user_claims = &["username".into(), "sub".into()];
        introspection(body.as_bytes(), &Expected { user_claims, audience, now: Timestamp(0) })
    }

    fn of(issuer: &str, userid: &str, expires: Option<i64>) -> Result<Word, Nonsense> {
        let subject =
            Subject { authority: Authority::Issuer(issuer.into()), userid: userid.into(), role_name: None };
        Ok(Word::Active(subject, expires.map(Timestamp)))
    }

    #[test]
    fn the_user_is_the_first_claim_that_is_there() {
        assert_eq!(introspect(r#"{"active":true,"username":"jdoe","sub":"1"}"#), of("", "jdoe", None));
        assert_eq!(
            introspect(r#"{"active":true,"username":null,"sub":"1","iss":"https://i"}"#),
            of("https://i", "1", None)
        );
        assert_eq!(introspect(r#"{"active":true,"client_id":"c"}"#), Ok(Word::Unfit(Unfit::Nobody)));
    }

    #[test]
    fn the_expiry_may_be_of_any_kind_of_number() {
        assert_eq!(introspect(r#"{"active":true,"sub":"1","exp":946684801}"#), of("", "1", Some(1_000_000)));
        assert_eq!(introspect(r#"{"active":true,"sub":"1","exp":946684801.5}"#), of("", "1", Some(1_500_000)));
        assert!(introspect(r#"{"active":true,"sub":"1","exp":"946684801"}"#).is_err());
    }

    #[test]
    fn times_are_numbers_and_a_token_is_not_used_before_its_time() {
        let with = |claims: &str| introspect(&format!(r#"{{"active":true,"sub":"1",{claims}}}"#));
        // 946684800 is now.
        for fine in [r#""nbf":946684800.25"#, r#""nbf":946684830"#, r#""iat":1e9"#, r#""iat":0.5,"nbf":null"#] {
            assert_eq!(with(fine), of("", "1", None), "{fine}");
        }
        for early in [r#""nbf":946684830.5"#, r#""nbf":4e9"#, r#""nbf":1e300"#] {
            assert_eq!(with(early), Ok(Word::Unfit(Unfit::Early)), "{early}");
        }
        for bad in
            [r#""nbf":"0""#, r#""nbf":true"#, r#""iat":"0""#, r#""iat":[0]"#, r#""exp":{}"#, r#""nbf":1e400"#]
        {
            assert!(with(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn only_access_tokens_count() {
        let with = |claims: &str| introspect(&format!(r#"{{"active":true,"sub":"1",{claims}}}"#));
        for fine in
            [r#""token_type":"Bearer""#, r#""token_type":"DPoP","typ":"JWT""#, r#""token_use":"access_token""#]
        {
            assert_eq!(with(fine), of("", "1", None), "{fine}");
        }
        for other in [
            r#""token_type":"refresh_token""#,
            r#""token_type":"Refresh""#,
            r#""token_type":"Bearer","token_use":"refresh_token""#,
            r#""typ":"Offline""#,
            r#""typ":"ID""#,
        ] {
            assert_eq!(with(other), Ok(Word::Unfit(Unfit::Kind)), "{other}");
        }
        assert!(with(r#""token_type":["refresh_token"]"#).is_err());
    }

    #[test]
    fn a_token_may_have_to_be_for_us() {
        let with = |claims: &str| introspect_for("db", &format!(r#"{{"active":true,"sub":"1"{claims}}}"#));
        for fine in [r#","aud":"db""#, r#","aud":["web","db"]"#] {
            assert_eq!(with(fine), of("", "1", None), "{fine}");
        }
        for other in
            ["", r#","aud":null"#, r#","aud":"web""#, r#","aud":"DB""#, r#","aud":[]"#, r#","aud":["db2"]"#]
        {
            assert_eq!(with(other), Ok(Word::Unfit(Unfit::Audience)), "{other}");
        }
        for bad in [r#","aud":7"#, r#","aud":["db",7]"#, r#","aud":{"db":1}"#, r#","aud":[["db"]]"#] {
            assert!(with(bad).is_err(), "{bad}");
        }
        assert_eq!(introspect(r#"{"active":true,"sub":"1","aud":7}"#), of("", "1", None), "not looked at");
    }

    #[test]
    fn an_inactive_token_needs_nothing_else() {
        assert_eq!(introspect(r#"{"active":false}"#), Ok(Word::Inactive));
        for bad in ["{}", r#"{"active":"true"}"#, r#"{"active":1}"#, r#"{"active":false,"active":true,"sub":"1"}"#]
        {
            assert!(introspect(bad).is_err(), "{bad}");
        }
    }
}
