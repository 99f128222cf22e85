//! Secrets: made, hashed and looked at.

use crate::api::convert::{immuta_require_preload, report};
use crate::core::identity::Identity;
use crate::core::provider::refusals::Throttle;
use crate::core::time::{Timestamp, is_alive};
use crate::jobs;
use crate::pg::catalog::tables::{self, UserAccount};
use crate::pg::log;
use crate::pg::sys::inject::{self, Point};
use crate::pg::sys::turn::Turn;
use crate::pg::sys::{clock, wait};
use crate::rights::login;
use argon2::Argon2;
use argon2::password_hash::rand_core::{OsRng, RngCore};
use argon2::password_hash::{PasswordHash, PasswordHasher, PasswordVerifier, SaltString};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use once_cell::sync::Lazy;
use pgrx::prelude::*;
use std::cell::RefCell;
use std::time::Duration;

/// Failed logins in a row before further attempts are refused unseen.
const FREE_ATTEMPTS: i32 = 5;

/// Longest time for which attempts are refused.
const LONGEST_LOCKOUT: Duration = Duration::from_secs(900);

/// For functions that take a secret: hides the statement that called them, which may hold it.
#[pg_extern(sql = false)]
fn immuta_conceal_statement() {
    log::conceal_statement();
}

/// A fresh secret: 256 bits of the operating system's random source, in 43 characters.
#[pg_extern(sql = false)]
fn immuta_new_secret() -> String {
    log::hold_back();
    let mut bytes = [0u8; 32];
    if OsRng.try_fill_bytes(&mut bytes).is_err() {
        pgrx::error!("could not generate a random secret");
    }
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Hash of a password: argon2id in PHC string format, with the parameters OWASP recommends (RFC 9106).
#[pg_extern(sql = false)]
fn immuta_hash_password(password: &[u8]) -> String {
    log::conceal_statement();
    hash_password(password).unwrap_or_else(|| pgrx::error!("could not hash a password"))
}

fn hash_password(password: &[u8]) -> Option<String> {
    let salt = SaltString::generate(&mut OsRng);
    Argon2::default().hash_password(password, &salt).ok().map(|hash| hash.to_string())
}

/// The id of the user whose password this is. Takes as long for a user who does not exist or has none. After
/// [`FREE_ATTEMPTS`] failures in a row attempts are refused unseen for a time that doubles with each. An attempt counts as
/// failed, in a transaction of its own, before the password is looked at; where that cannot be written it is refused. The
/// latest state of the user decides, whatever the snapshot of the transaction.
#[pg_extern(sql = false)]
fn immuta_user_by_password(iamid: Option<&[u8]>, userid: Option<&[u8]>, password: &[u8]) -> Option<i64> {
    log::conceal_statement();
    static NOBODY: Lazy<String> = Lazy::new(|| hash_password(b"nobody").unwrap_or_default());
    let installed = login::installed().unwrap_or_else(|error| report(error));
    let identity = iamid.zip(userid).map(|(iamid, userid)| Identity::of_bytes(userid, iamid));
    let find = || identity.as_ref().and_then(|identity| tables::user_by_identity(&installed, identity));
    // Nobody guesses in many sessions at once what each of them would count only afterwards.
    let _turn = find().map(|user| Turn::wait_for(user.id));
    let user = find().filter(|user| !user.is_disabled && !is_locked_out(user));
    // No user has the id 0: an unknown name, or one that is locked out, costs what any other costs.
    let is_counted = jobs::record_failed_login(user.as_ref().map_or(0, |user| user.id));
    inject::point(Point::LoginCounted);
    if !is_counted {
        wait::pause(Duration::from_secs(2));
    }
    let hash = user.as_ref().and_then(|user| tables::password_hash(&installed, user.id));
    let matches = PasswordHash::new(hash.as_deref().unwrap_or(&NOBODY))
        .is_ok_and(|parsed| Argon2::default().verify_password(password, &parsed).is_ok());
    let user = user.filter(|_| is_counted && hash.is_some() && matches)?;
    jobs::record_login(user.id);
    Some(user.id)
}

fn is_locked_out(user: &UserAccount) -> bool {
    let (failures, Some(last)) = (user.failed_logins, user.last_failed_login) else { return false };
    let Ok(excess) = u32::try_from(failures - FREE_ATTEMPTS) else { return false };
    let lockout = Duration::from_secs(1 << excess.min(16)).min(LONGEST_LOCKOUT);
    is_alive(last, Timestamp(clock::wall_time()), lockout)
}

/// `(id of the key, id of the user)` of an API key, by its digest, as it is now; no row for any other, or a user who is
/// disabled.
#[pg_extern(sql = false)]
fn immuta_user_by_api_key(digest: &[u8]) -> TableIterator<'static, (name!(key_id, i64), name!(user_id, i64))> {
    immuta_require_preload();
    let installed = login::installed().unwrap_or_else(|error| report(error));
    let found = tables::api_key(&installed, digest)
        .filter(|&(_, user)| tables::user_by_id(&installed, user).is_some_and(|user| !user.is_disabled));
    TableIterator::new(found)
}

/// Makes failures of one connection cost time; see [`Throttle`].
#[pg_extern(sql = false)]
fn immuta_throttle_failures() {
    thread_local! {
        static FAILURES: RefCell<Throttle> = RefCell::default();
    }
    let now = Timestamp(clock::wall_time());
    wait::pause(FAILURES.with_borrow_mut(|failures| failures.failed(now)));
}
