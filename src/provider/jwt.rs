//! Access tokens that are JSON Web Tokens, verified by the published keys of their issuers: nobody is asked about a token.

use crate::core::identity::{Authority, Identity, Provider, Subject};
use crate::core::provider::cache::Resolution;
use crate::core::provider::jwt::cache::issuer_of_line;
use crate::core::provider::jwt::claims::{self, Accepted, CHECKS, Claims};
use crate::core::provider::jwt::fault::Fault;
use crate::core::provider::jwt::json::Json;
use crate::core::provider::jwt::keys::KeySet;
use crate::core::provider::jwt::policy::{Keys, Policy};
use crate::core::provider::jwt::revocation::revocation_of_user;
use crate::core::provider::jwt::token::Token;
use crate::core::provider::outage::Outage;
use crate::core::provider::refusals::Refusal;
use crate::core::time::Timestamp;
use crate::core::token::{Digest, Secret};
use crate::pg::catalog::{Installation, tables};
use crate::pg::sys::{clock, report};
use crate::provider::Failure;
use crate::provider::keys::{KnownKeys, Source};
use crate::settings;
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

const AUDIENCE: &str = "bodata.jwt_audience";

thread_local! {
    /// The token with which the session was opened, or that took its place. It was in force then.
    static OF_LOGIN: Cell<Option<Digest>> = const { Cell::new(None) };
}

/// Why a token is not accepted.
enum Problem {
    Fault(Fault),
    Outage(Outage),
}

impl From<Fault> for Problem {
    fn from(fault: Fault) -> Problem {
        Problem::Fault(fault)
    }
}

/// What is accepted of an issuer that is mapped, and its identity manager.
struct Mapped {
    iamid: String,
    policy: Policy,
}

impl Mapped {
    fn find(installed: &Installation, issuer: &str) -> Option<Result<Mapped, Outage>> {
        let (iamid, row) = tables::issuer(installed, issuer)?;
        let mut policy = settings::jwt_policy();
        // The row was looked at when it was written.
        let changed = Json::read(row.as_bytes()).is_some_and(|row| policy.change(&row).is_ok());
        Some(if changed {
            Ok(Mapped { iamid, policy })
        } else {
            Err(Outage::Nonsense("row of its issuer is not as written"))
        })
    }
}

/// Takes a token through all checks. `note` hears what each found, and decides whether that ends it.
fn examine(
    installed: &Installation,
    text: &str,
    outlives: Duration,
    now: Timestamp,
    mut note: impl FnMut(&'static str, Result<(), Problem>) -> Result<(), Problem>,
) -> Result<Accepted, Problem> {
    let token = Token::read(text);
    note("form", token.as_ref().map(drop).map_err(|fault| (*fault).into()))?;
    let token = token?;
    note("extensions", token.check_extensions().map_err(Into::into))?;
    let issuer = token.issuer().map(str::to_owned);
    let mapped = issuer
        .as_ref()
        .map_err(|fault| *fault)
        .and_then(|issuer| Mapped::find(installed, issuer).ok_or(Fault::Issuer));
    note("issuer", mapped.as_ref().map(drop).map_err(|fault| (*fault).into()))?;
    let (issuer, Mapped { iamid, mut policy }) = (issuer?, mapped?.map_err(Problem::Outage)?);
    policy.outlives = outlives;
    note("type", token.check_type(&policy.types).map_err(Into::into))?;
    note("algorithm", token.algorithm(&policy.algorithms).map(drop).map_err(Into::into))?;
    if policy.audiences.is_empty() {
        note("configuration", Err(Problem::Outage(Outage::NotConfigured(AUDIENCE))))?;
    }
    note("signature", check_signature(&token, &issuer, &policy))?;
    for (name, check) in CHECKS {
        note(name, check(&token.claims, &policy, now).map_err(Into::into))?;
    }
    let signed = token.digest();
    let accepted = claims::accepted(token.claims, &issuer, signed, &policy)?;
    let identity = Identity { iamid, userid: accepted.userid.clone() };
    note("not revoked", check_revocation(installed, &accepted.claims, &identity).map_err(Into::into))?;
    Ok(accepted)
}

fn check_signature(token: &Token, issuer: &str, policy: &Policy) -> Result<(), Problem> {
    // Before anybody is asked: what cannot be a good token asks for nothing.
    token.kid()?;
    token.algorithm(&policy.algorithms)?;
    let has_key = |keys: &KeySet| token.finds_key(keys, &policy.algorithms).is_ok_and(|found| found);
    let keys = Source { issuer, keys: &policy.keys }.find(has_key).map_err(Problem::Outage)?;
    Ok(token.verify(&keys, &policy.algorithms)?)
}

/// A user's tokens are revoked by the time of their issue, in whole seconds: one of the same second may be an old one.
fn check_revocation(installed: &Installation, claims: &Claims, identity: &Identity) -> Result<(), Fault> {
    let all_before = tables::revoked_at(installed, &revocation_of_user(identity));
    let is_old = all_before.is_some_and(|at| claims.issued.is_none_or(|issued| issued <= at));
    if is_old || tables::revoked_at(installed, &claims.revocation).is_some() {
        Err(Fault::Revoked)
    } else {
        Ok(())
    }
}

pub fn resolve(installed: &Installation, token: &Secret, now: Timestamp) -> Result<Resolution, Failure> {
    let of_login = OF_LOGIN.get();
    let is_of_login = of_login == Some(Digest::of(token.reveal().as_bytes()));
    let lifetime = settings::oauth_session_lifetime();
    let outlives = if is_of_login { lifetime } else { Duration::ZERO };
    match examine(installed, token.reveal(), outlives, now, |_, found| found) {
        Ok(Accepted { userid, expires, claims }) => Ok(Resolution {
            provider: Provider::Jwt,
            subject: Subject { authority: Authority::Issuer(claims.issuer.clone()), userid, role_name: None },
            last_used: now,
            validated: now,
            // A fresh one takes the place of the login's, if it is of the same user.
            expires: Some(if of_login.is_some() && !is_of_login { expires.plus(lifetime) } else { expires }),
            token_id: 0,
            claims: Some(Rc::new(claims)),
        }),
        Err(Problem::Outage(outage)) => Err(Failure::Outage(outage)),
        Err(Problem::Fault(fault)) => {
            report_fault(fault);
            let is_valid = fault.is_of_a_valid_token();
            Err(Failure::Refused(if is_valid { Refusal::Insufficient(fault) } else { Refusal::Invalid }))
        }
    }
}

/// From now on the session is this token's.
pub fn opens_session(token: Digest) {
    OF_LOGIN.set(Some(token));
}

/// Whether somebody may log in with this token by a line for this issuer and these scopes; who they are by the settings, or why
/// not. No table can be read: what rows say of the issuer counts later, when the connection is made.
pub fn accept_login(token: &Secret, issuer: &str, scope: &str) -> Result<String, String> {
    if settings::token_provider() != Provider::Jwt {
        return Err("bodata.token_provider is not jwt for the whole server".into());
    }
    let mut policy = settings::jwt_policy();
    if policy.audiences.is_empty() {
        return Err(format!("{AUDIENCE} is not set for the whole server"));
    }
    policy.scopes.extend(scope.split_whitespace().map(str::to_owned));
    login_problem(token.reveal(), &issuer_of_line(issuer), &policy).map_err(|problem| match problem {
        Problem::Fault(fault) => format!("its token {}", fault.why()),
        Problem::Outage(outage) => format!("its token could not be checked: {}", outage.why()),
    })
}

fn login_problem(text: &str, issuer: &str, policy: &Policy) -> Result<String, Problem> {
    let token = Token::read(text)?;
    token.check_extensions()?;
    if token.issuer()? != issuer {
        return Err(Fault::Issuer.into());
    }
    token.check_type(&policy.types)?;
    check_signature(&token, issuer, policy)?;
    let now = Timestamp(clock::wall_time());
    for (name, check) in CHECKS {
        if !claims::OF_ROWS.contains(&name) {
            check(&token.claims, policy, now)?;
        }
    }
    Ok(claims::user(&token.claims, policy).unwrap_or_default())
}

/// What a check found, for the administrator: its name, whether it was passed, what is wrong and what to do.
pub type Finding = (&'static str, bool, String);

/// Every check of a token, also those after the first that fails. Nothing is decided by that.
pub fn explain(installed: &Installation, token: &str, now: Timestamp) -> Vec<Finding> {
    let mut findings = Vec::new();
    let ended = examine(installed, token, Duration::ZERO, now, |name, found| {
        findings.push(finding(name, found));
        Ok(())
    });
    if let (Err(problem), true) = (ended, findings.iter().all(|(_, is_passed, _)| *is_passed)) {
        findings.push(finding("claims", Err(problem)));
    }
    findings
}

fn finding(name: &'static str, found: Result<(), Problem>) -> Finding {
    match found {
        Ok(()) => (name, true, "passed".into()),
        Err(Problem::Fault(fault)) => (name, false, format!("The token {}. {}", fault.why(), fault.hint())),
        Err(Problem::Outage(outage)) => (name, false, format!("It could not be checked: {}.", outage.why())),
    }
}

/// Once per session and reason is enough: the administrator may want to know.
fn report_fault(fault: Fault) {
    thread_local! {
        static TOLD: Cell<[bool; Fault::COUNT]> = const { Cell::new([false; Fault::COUNT]) };
    }
    let mut told = TOLD.get();
    if !std::mem::replace(&mut told[fault as usize], true) {
        TOLD.set(told);
        report::log(format!("a token was refused because it {}", fault.why()), fault.hint());
    }
}

/// Why tokens of some issuer cannot be checked.
pub fn fault(installed: &Installation) -> Option<Outage> {
    tables::issuers(installed).iter().filter(|issuer| !issuer.is_empty()).find_map(|issuer| {
        let mapped = Mapped::find(installed, issuer)?;
        let check = |mapped: Mapped| {
            if mapped.policy.audiences.is_empty() {
                return Err(Outage::NotConfigured(AUDIENCE));
            }
            Source { issuer, keys: &mapped.policy.keys }.find(|_| true).map(drop)
        };
        mapped.and_then(check).err()
    })
}

/// The keys of an issuer that is mapped, as they are known, or fetched anew.
pub fn keys(installed: &Installation, issuer: &str) -> Option<KnownKeys> {
    let mapped = Mapped::find(installed, issuer)?;
    let keys = mapped.map_or(Keys::Discovery, |mapped| mapped.policy.keys);
    Some(Source { issuer, keys: &keys }.known())
}

pub fn forget_keys(installed: &Installation, issuer: &str) {
    if let Some(Ok(mapped)) = Mapped::find(installed, issuer) {
        Source { issuer, keys: &mapped.policy.keys }.forget();
    }
}

pub fn refresh(installed: &Installation, issuer: &str) -> Option<Result<(), Outage>> {
    let mapped = Mapped::find(installed, issuer)?;
    Some(mapped.and_then(|mapped| Source { issuer, keys: &mapped.policy.keys }.refresh()))
}
