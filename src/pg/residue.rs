//! What a user leaves in a session, and how it is removed.

use crate::pg::sys::{clock, raw};
use pgrx::{IntoDatum, pg_sys};

/// Drops the temporary objects of this session, also those that were made without touching the schema by its alias.
/// For use before commit.
pub fn drop_temporary_objects() {
    // SAFETY: inside a transaction that is about to commit; dropping needs a snapshot.
    unsafe {
        let (mut schema, mut toast) = (pg_sys::Oid::INVALID, pg_sys::Oid::INVALID);
        raw::GetTempNamespaceState(&mut schema, &mut toast);
        if schema == pg_sys::Oid::INVALID {
            return;
        }
        pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
        pg_sys::ResetTempTableNamespace();
        pg_sys::PopActiveSnapshot();
    }
}

/// Forgets what `currval()` and `lastval()` would tell of the last user. Cannot fail.
pub fn forget_sequences() {
    raw::ResetSequenceCaches();
}

/// Seeds `random()` anew, so that nothing of a `setseed()` remains. Cannot fail: the seed is within -1 and 1.
pub fn reseed() {
    let bits = clock::random() >> 11;
    let seed = bits as f64 / (1u64 << 53) as f64;
    // SAFETY: setseed() takes one float8, passed as PostgreSQL passes it.
    unsafe {
        if let Some(seed) = seed.into_datum() {
            pg_sys::DirectFunctionCall1Coll(Some(setseed), pg_sys::Oid::INVALID, seed);
        }
    }
}

unsafe extern "C-unwind" {
    /// `float.c`, SQL function `setseed(float8)`.
    fn setseed(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum;
}
