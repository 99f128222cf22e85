//! Between SQL and the rest.

use crate::core::identity::Identity;
use crate::core::time::Timestamp;
use crate::error::Error;
use crate::pg::preload;
use crate::pg::sys::report::{Report, raise};
use pgrx::datum::TimestampWithTimeZone;
use pgrx::prelude::*;

pub fn report(error: Error) -> ! {
    raise(Report::from(error))
}

/// Refuses to work half: without the hooks nothing that this extension promises would hold.
#[pg_extern(sql = false)]
pub fn immuta_require_preload() {
    if !preload::is_preloaded() {
        report(Error::NotPreloaded);
    }
}

pub fn utf8(identity: &Identity) -> (Vec<u8>, Vec<u8>) {
    (identity.iamid.clone().into_bytes(), identity.userid.clone().into_bytes())
}

pub fn timestamptz(at: Timestamp) -> Option<TimestampWithTimeZone> {
    TimestampWithTimeZone::try_from(at.0).ok()
}
