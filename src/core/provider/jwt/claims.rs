//! What a verified token says, against what is accepted of its issuer.

use super::fault::Fault;
use super::json::{Json, Path, name, time};
use super::policy::Policy;
use super::profile::{Attributes, attributes, groups};
use super::revocation::{RevocationKey, revocation};
use crate::core::identity::{self, Actor, Bearer};
use crate::core::provider::answers::is_no_access_token;
use crate::core::time::Timestamp;
use crate::core::token::Digest;
use std::rc::Rc;

/// Most actors, one for another.
const MAX_ACTORS: usize = 8;

/// What a check finds.
pub type Check = fn(&Json, &Policy, Timestamp) -> Result<(), Fault>;

/// The checks that depend on what the row of an issuer says.
pub const OF_ROWS: [&str; 3] = ["user", "required claims", "groups and attributes"];

/// Every check of what a token says, in order: the first that fails decides.
pub const CHECKS: [(&str, Check); 8] = [
    ("audience", check_audience),
    ("times", check_times),
    ("kind", check_kind),
    ("user", |claims, policy, _| user(claims, policy).map(drop)),
    ("actor", check_actor),
    ("scope", check_scope),
    ("required claims", check_required),
    ("groups and attributes", |claims, policy, _| {
        groups(claims, policy).and(attributes(claims, policy).map(drop))
    }),
];

fn check_audience(claims: &Json, policy: &Policy, _: Timestamp) -> Result<(), Fault> {
    let named = claims.member("aud").ok_or(Fault::Audience)?.texts().ok_or(Fault::Audience)?;
    let is_ours = named.iter().any(|name| policy.audiences.iter().any(|own| own == name));
    if is_ours { Ok(()) } else { Err(Fault::Audience) }
}

fn check_times(claims: &Json, policy: &Policy, now: Timestamp) -> Result<(), Fault> {
    let at = |name| time(claims, name);
    if ends(claims, policy)? <= now {
        return Err(Fault::Expired);
    }
    let (begins, issued) = (at("nbf")?, at("iat")?);
    if begins.into_iter().chain(issued).any(|begins| now.plus(policy.skew) < begins) {
        return Err(Fault::Early);
    }
    let Some(longest) = policy.max_lifetime else { return Ok(()) };
    let (issued, expires) = (issued.ok_or(Fault::Lifetime)?, at("exp")?.ok_or(Fault::Expired)?);
    if issued.plus(longest) < expires { Err(Fault::Lifetime) } else { Ok(()) }
}

/// When a token ends, which every token must say.
fn ends(claims: &Json, policy: &Policy) -> Result<Timestamp, Fault> {
    Ok(time(claims, "exp")?.ok_or(Fault::Expired)?.plus(policy.skew).plus(policy.outlives))
}

/// An access token that whoever has it may use.
fn check_kind(claims: &Json, _: &Policy, _: Timestamp) -> Result<(), Fault> {
    if claims.member("cnf").is_some() {
        return Err(Fault::Bound);
    }
    let of_others = ["nonce", "at_hash", "c_hash", "s_hash", "events"];
    let says = |name| claims.member(name).and_then(Json::text).is_some_and(is_no_access_token);
    if of_others.iter().any(|name| claims.member(name).is_some())
        || ["token_use", "token_type", "typ"].into_iter().any(says)
    {
        return Err(Fault::Kind);
    }
    Ok(())
}

/// The client to which the token was issued, by the names that servers have for it.
const CLIENT: [&str; 4] = ["client_id", "azp", "appid", "cid"];

fn client(claims: &Json) -> Result<Option<String>, Fault> {
    CLIENT.iter().find_map(|name| claims.member(name)).map(name).transpose()
}

/// The subject of a token that a client got for itself is the client, whose id may be some user's, too (RFC 9700, 4.15).
fn is_client(claims: &Json, subject: &str) -> bool {
    let says = |name: &str, value: &str| claims.member(name).and_then(Json::text) == Some(value);
    CLIENT.iter().any(|name| says(name, subject)) || says("idtyp", "app") || says("gty", "client-credentials")
}

pub fn user(claims: &Json, policy: &Policy) -> Result<String, Fault> {
    for path in &policy.user_claims {
        let Some(value) = path.of(claims) else { continue };
        let text = value.text().ok_or(Fault::ClaimType)?;
        if text.is_empty() || *path == Path::Name("sub".into()) && is_client(claims, text) {
            continue;
        }
        let named = identity::of_template(text, "-", &policy.user_template);
        return named.map(|identity| identity.userid).ok_or(Fault::ClaimType);
    }
    Err(Fault::Nobody)
}

/// The actor, and those for whom it acts in turn, which is history (RFC 8693, 4.1).
fn actors(claims: &Json) -> Result<Vec<Actor>, Fault> {
    let mut found = Vec::new();
    let mut at = claims.member("act");
    while let Some(actor) = at {
        actor.members().ok_or(Fault::ClaimType)?;
        let text = |member: &str| actor.member(member).map(name).transpose();
        let id = text("sub")?.ok_or(Fault::ClaimType)?;
        found.push(Actor { id, issuer: text("iss")? });
        if found.len() > MAX_ACTORS {
            return Err(Fault::ClaimType);
        }
        at = actor.member("act");
    }
    Ok(found)
}

fn check_actor(claims: &Json, policy: &Policy, _: Timestamp) -> Result<(), Fault> {
    if !actors(claims)?.is_empty() && policy.refuses_actors { Err(Fault::Actor) } else { Ok(()) }
}

fn check_scope(claims: &Json, policy: &Policy, _: Timestamp) -> Result<(), Fault> {
    let mut granted = Vec::new();
    for name in ["scope", "scp"] {
        if let Some(value) = claims.member(name) {
            granted.extend(value.texts().ok_or(Fault::ClaimType)?.into_iter().flat_map(|text| text.split(' ')));
        }
    }
    let has = |scope: &String| granted.contains(&scope.as_str());
    if policy.scopes.iter().all(has) { Ok(()) } else { Err(Fault::Scope) }
}

fn check_required(claims: &Json, policy: &Policy, _: Timestamp) -> Result<(), Fault> {
    let has = |(path, wanted): &(Path, Vec<Json>)| {
        path.of(claims).is_some_and(|value| {
            wanted.contains(value) || value.list().is_some_and(|list| list.iter().any(|one| wanted.contains(one)))
        })
    };
    if policy.required.iter().all(has) { Ok(()) } else { Err(Fault::Claims) }
}

/// What is remembered of a token that was accepted.
#[derive(Clone, Debug, PartialEq)]
pub struct Claims {
    pub issuer: String,
    pub bearer: Rc<Bearer>,
    pub groups: Option<Vec<String>>,
    pub attributes: Option<Attributes>,
    pub issued: Option<Timestamp>,
    pub revocation: RevocationKey,
    pub all: Json,
}

/// A token that was accepted: its user, until when, and what else it says.
#[derive(Debug)]
pub struct Accepted {
    pub userid: String,
    pub expires: Timestamp,
    pub claims: Claims,
}

/// `signed` is the digest of what was signed. The checks were passed.
pub fn accepted(claims: Json, issuer: &str, signed: Digest, policy: &Policy) -> Result<Accepted, Fault> {
    let token_id = claims.member("jti").map(name).transpose()?;
    Ok(Accepted {
        userid: user(&claims, policy)?,
        expires: ends(&claims, policy)?,
        claims: Claims {
            issuer: issuer.to_owned(),
            revocation: revocation(issuer, token_id.as_deref(), signed),
            bearer: Rc::new(Bearer { token_id, client: client(&claims)?, actors: actors(&claims)? }),
            groups: groups(&claims, policy)?,
            attributes: attributes(&claims, policy)?,
            issued: time(&claims, "iat")?,
            all: claims,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::provider::jwt::profile::MAX_ELEMENTS;
    use std::time::Duration;

    const SECOND: i64 = 1_000_000;

    /// 1,000,000,000 seconds after 1970.
    const NOW: Timestamp = Timestamp((1_000_000_000 - 946_684_800) * SECOND);

    fn policy() -> Policy {
        Policy {
            audiences: vec!["db".into(), "https://db.example.com".into()],
            user_claims: vec![Path::Name("sub".into())],
            skew: Duration::from_secs(30),
            max_lifetime: Some(Duration::from_secs(3600)),
            ..Policy::default()
        }
    }

    fn changed(row: &str) -> Policy {
        let mut policy = policy();
        assert_eq!(policy.change(&read(row)), Ok(()), "{row}");
        policy
    }

    fn read(text: &str) -> Json {
        Json::read(text.as_bytes()).unwrap_or(Json::Null)
    }

    /// A good token's claims, with these instead.
    fn claims(instead: &str) -> Json {
        let mut good = read(r#"{"iss":"i","sub":"alice","aud":"db","exp":1000000600,"iat":999999990,"jti":"1"}"#);
        if let (Json::Object(members), Json::Object(others)) = (&mut good, read(&format!("{{{instead}}}"))) {
            members.retain(|(name, _)| others.iter().all(|(other, _)| other != name));
            members.extend(others);
        }
        good
    }

    fn judged(instead: &str, policy: &Policy) -> Result<Accepted, Fault> {
        let claims = claims(instead);
        CHECKS.iter().try_for_each(|(_, check)| check(&claims, policy, NOW))?;
        accepted(claims, "i", Digest::of(b"signed"), policy)
    }

    fn fault(instead: &str, policy: &Policy) -> Option<Fault> {
        judged(instead, policy).err()
    }

    #[test]
    fn an_audience_is_named_exactly() {
        for fine in [r#""aud":"https://db.example.com""#, r#""aud":["x","db"]"#] {
            assert_eq!(fault(fine, &policy()), None, "{fine}");
        }
        let many = format!(r#""aud":[{}"db"]"#, r#""x","#.repeat(1000));
        assert_eq!(fault(&many, &policy()), None);
        for bad in [
            "null",
            "[]",
            "7",
            r#"{"a":"db"}"#,
            r#"["x"]"#,
            r#""db2""#,
            r#""DB""#,
            r#"["db",7]"#,
            r#""d""#,
            r#""""#,
        ] {
            assert_eq!(fault(&format!(r#""aud":{bad}"#), &policy()), Some(Fault::Audience), "{bad}");
        }
        assert_eq!(fault("", &Policy { audiences: Vec::new(), ..policy() }), Some(Fault::Audience));
    }

    #[test]
    fn times_count_with_a_little_skew() {
        for (times, expected) in [
            (r#""exp":999999971"#, None),
            (r#""exp":999999970"#, Some(Fault::Expired)),
            (r#""exp":-1"#, Some(Fault::Expired)),
            (r#""exp":null"#, Some(Fault::Expired)),
            (r#""exp":"1000000600""#, Some(Fault::ClaimType)),
            (r#""exp":1e300"#, Some(Fault::Lifetime)),
            (r#""nbf":1000000030"#, None),
            (r#""nbf":1000000031"#, Some(Fault::Early)),
            (r#""nbf":"0""#, Some(Fault::ClaimType)),
            (r#""iat":1000000031"#, Some(Fault::Early)),
            (r#""iat":null"#, Some(Fault::Lifetime)),
            (r#""iat":"now""#, Some(Fault::ClaimType)),
            (r#""exp":1000003590"#, None),
            (r#""exp":1000003591"#, Some(Fault::Lifetime)),
        ] {
            assert_eq!(fault(times, &policy()), expected, "{times}");
        }
        assert_eq!(fault(r#""iat":null,"exp":1e300"#, &Policy { max_lifetime: None, ..policy() }), None);
        let outliving = Policy { outlives: Duration::from_secs(100), ..policy() };
        assert_eq!(fault(r#""exp":999999871"#, &outliving), None);
        assert_eq!(fault(r#""exp":999999870"#, &outliving), Some(Fault::Expired));
        assert_eq!(fault(r#""nbf":1000000031"#, &outliving), Some(Fault::Early));
        let end = judged("", &policy()).map(|accepted| accepted.expires);
        assert_eq!(end.ok(), Some(Timestamp(NOW.0 + 630 * SECOND)));
    }

    #[test]
    fn only_access_tokens_for_bearers() {
        for (kind, expected) in [
            (r#""cnf":{"jkt":"x"}"#, Fault::Bound),
            (r#""cnf":"x""#, Fault::Bound),
            (r#""nonce":"x""#, Fault::Kind),
            (r#""at_hash":"x""#, Fault::Kind),
            (r#""events":{}"#, Fault::Kind),
            (r#""token_use":"id""#, Fault::Kind),
            (r#""typ":"Refresh""#, Fault::Kind),
        ] {
            assert_eq!(fault(kind, &policy()), Some(expected), "{kind}");
        }
        assert_eq!(fault(r#""typ":"Bearer","token_use":"access""#, &policy()), None);
    }

    #[test]
    fn the_subject_of_a_client_is_nobody() {
        for client in [
            r#""client_id":"alice""#,
            r#""azp":"alice""#,
            r#""cid":"alice""#,
            r#""idtyp":"app""#,
            r#""gty":"client-credentials""#,
        ] {
            assert_eq!(fault(client, &policy()), Some(Fault::Nobody), "{client}");
        }
        let named = changed(r#"{"user_claim":["/x/mail","sub"],"user_template":"{userid}@corp"}"#);
        let user = |instead| judged(instead, &named).map(|accepted| accepted.userid);
        assert_eq!(user(r#""client_id":"alice","x":{"mail":"bob"}"#).ok().as_deref(), Some("bob@corp"));
        assert_eq!(user("").ok().as_deref(), Some("alice@corp"));
        for bad in [
            r#""x":{"mail":["bob"]}"#,
            r#""x":{"mail":{"a":1}}"#,
            r#""x":{"mail":7}"#,
            r#""sub":"a\u0000b""#,
            r#""sub":"a\nb""#,
        ] {
            assert_eq!(user(bad), Err(Fault::ClaimType), "{bad}");
        }
        assert_eq!(fault(r#""sub":"""#, &policy()), Some(Fault::Nobody));
        assert_eq!(fault(r#""sub":null"#, &policy()), Some(Fault::Nobody));
        assert_eq!(fault(&format!(r#""sub":"{}""#, "x".repeat(256)), &policy()), Some(Fault::ClaimType));
    }

    #[test]
    fn the_outermost_actor_acts() {
        let found = judged(r#""act":{"sub":"agent","iss":"j","act":{"sub":"app"}}"#, &policy());
        let ids: Vec<String> = found
            .map(|a| a.claims.bearer.actors.iter().map(|actor| actor.id.clone()).collect())
            .unwrap_or_default();
        assert_eq!(ids, ["agent", "app"]);
        let nested = |depth: usize| {
            format!("{}{}", r#"{"sub":"a","act":"#.repeat(depth - 1), r#"{"sub":"a"}"#) + &"}".repeat(depth - 1)
        };
        assert_eq!(fault(&format!(r#""act":{}"#, nested(8)), &policy()), None);
        for bad in [
            nested(9),
            r#""agent""#.into(),
            "{}".into(),
            r#"{"sub":""}"#.into(),
            r#"{"sub":"a","act":"b"}"#.into(),
            "[]".into(),
        ] {
            assert_eq!(fault(&format!(r#""act":{bad}"#), &policy()), Some(Fault::ClaimType), "{bad}");
        }
        let refusing = Policy { refuses_actors: true, ..policy() };
        assert_eq!(fault(r#""act":{"sub":"agent"}"#, &refusing), Some(Fault::Actor));
        assert_eq!(fault("", &refusing), None);
    }

    #[test]
    fn scopes_and_claims_that_are_required() {
        let reading = Policy { scopes: vec!["db:read".into(), "x".into()], ..policy() };
        for (granted, expected) in [
            (r#""scope":"x db:read""#, None),
            (r#""scp":["db:read"],"scope":"x""#, None),
            (r#""scp":"x db:read""#, None),
            ("", Some(Fault::Scope)),
            (r#""scope":"x db:reader""#, Some(Fault::Scope)),
            (r#""scope":7"#, Some(Fault::ClaimType)),
        ] {
            assert_eq!(fault(granted, &reading), expected, "{granted}");
        }
        let tenant = changed(r#"{"required_claims":{"tid":"t","/r/roles":["a","b"],"n":1}}"#);
        assert_eq!(fault(r#""tid":"t","r":{"roles":["c","b"]},"n":1"#, &tenant), None);
        for bad in [
            "",
            r#""tid":"t","r":{"roles":["c"]},"n":1"#,
            r#""tid":"T","r":{"roles":"a"},"n":1"#,
            r#""tid":"t","r":{"roles":"a"},"n":"1""#,
        ] {
            assert_eq!(fault(bad, &tenant), Some(Fault::Claims), "{bad}");
        }
    }

    #[test]
    fn groups_are_those_of_the_token_or_it_is_refused() {
        let grouped = changed(r#"{"groups_claim":"groups"}"#);
        let groups = |instead| judged(instead, &grouped).map(|accepted| accepted.claims.groups);
        assert_eq!(groups(r#""groups":["a","b"]"#), Ok(Some(vec!["a".into(), "b".into()])));
        assert_eq!(groups(""), Ok(Some(Vec::new())));
        for left_out in [r#""hasgroups":true"#, r#""_claim_names":{"groups":"src1"}"#, r#""groups:src1":"x""#] {
            assert_eq!(groups(left_out), Err(Fault::Groups), "{left_out}");
        }
        let many = format!(r#""groups":[{}"x"]"#, r#""x","#.repeat(MAX_ELEMENTS));
        for bad in [r#""groups":"a""#, r#""groups":[["a"]]"#, r#""groups":["a",7]"#, r#""groups":{"a":1}"#, &many]
        {
            assert_eq!(groups(bad), Err(Fault::ClaimType), "{bad:.60}");
        }
        assert_eq!(
            judged(r#""groups":"a""#, &policy()).map(|accepted| accepted.claims.groups),
            Ok(None),
            "not looked at"
        );
    }

    #[test]
    fn attributes_are_an_object_or_single_claims() {
        let mut policy = changed(r#"{"attribute_claims":{"Level":"/x/y~1z","a":"b"}}"#);
        policy.attributes = Path::parse("attrs");
        let attributes =
            |instead| judged(instead, &policy).map(|accepted| accepted.claims.attributes.unwrap_or_default());
        let found = attributes(r#""attrs":{"__proto__":"p","a.b":["1","2"],"Level":"low"},"x":{"y/z":"high"}"#);
        let expected = [("__proto__", vec!["p"]), ("a.b", vec!["1", "2"]), ("Level", vec!["high"])];
        let expected =
            expected.map(|(name, values)| (name.to_owned(), values.into_iter().map(str::to_owned).collect()));
        assert_eq!(found, Ok(expected.to_vec()));
        assert_eq!(attributes(""), Ok(Vec::new()));
        for bad in [
            r#""attrs":["a"]"#,
            r#""attrs":{"a.b":7}"#,
            r#""attrs":{"x":1,"x":2}"#,
            r#""b":{"c":"d"}"#,
            r#""attrs":{"x":null}"#,
        ] {
            assert_eq!(attributes(bad), Err(Fault::ClaimType), "{bad}");
        }
    }
}
