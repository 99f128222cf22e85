//! One session at a time, for what must be counted before the next one is let in.

use crate::pg::sys::inject::{self, Point};
use pgrx::pg_sys;

/// PostgreSQL's own advisory locks have 1 and 2 in this field (`lockfuncs.c`): users cannot take these.
const OURS: u16 = 0x494d;

/// Held until it is dropped; after an error PostgreSQL releases it with the transaction.
pub struct Turn(pg_sys::LOCKTAG);

impl Turn {
    /// Waits until no other session of this database has the turn with this number. Serves interrupts meanwhile.
    pub fn wait_for(number: i64) -> Turn {
        let [high, low] = [(number >> 32) as u32, number as u32];
        let tag = pg_sys::LOCKTAG {
            // SAFETY: a static variable.
            locktag_field1: unsafe { pg_sys::MyDatabaseId }.to_u32(),
            locktag_field2: high,
            locktag_field3: low,
            locktag_field4: OURS,
            locktag_type: pg_sys::LockTagType::LOCKTAG_ADVISORY as u8,
            locktag_lockmethodid: pg_sys::USER_LOCKMETHOD as u8,
        };
        // SAFETY: a complete tag; not a lock of the session, so the transaction releases it at the latest.
        unsafe { pg_sys::LockAcquire(&tag, pg_sys::ExclusiveLock as i32, false, false) };
        let turn = Turn(tag);
        inject::point(Point::TurnTaken);
        turn
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        // SAFETY: the lock that wait_for() took; a WARNING at most.
        unsafe { pg_sys::LockRelease(&self.0, pg_sys::ExclusiveLock as i32, false) };
    }
}
