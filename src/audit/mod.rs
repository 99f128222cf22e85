//! Both identities on record: one audit record for each statement of an impersonated user, and for the begin, refusal
//! and end of each impersonation; and for each change of who has access to what.
//!
//! `core::audit::trail` knows which statements are on their way, `core::audit` what a record says; here is decided when one
//! is written. A record is written before the client is told that its statement is done.

mod access;
mod file;
mod impersonation;
mod objects;
mod record;
mod sinks;
mod statements;

pub use access::{access_changed, access_changes, forget_changes, subtransaction_changed};
pub use impersonation::{before_commit, left, presented_for, refused, started, tested, transaction_ended};
pub use sinks::{Store, queue_bytes, wake_writer};
pub use statements::{
    accesses, begins, calls, changes, failed, query_ended, ran, runs, subtransaction_aborted, utility_ended,
};

use crate::audit::statements::Remembered;
use crate::core::audit::changes::Waiting;
use crate::core::audit::trail::Trail;
use crate::core::audit::{Ids, Impersonated, Objects, Session, SqlState};
use crate::core::identity::Identity;
use crate::core::time::Timestamp;
use crate::pg::sys::clock;
use crate::settings;
use std::cell::RefCell;
use std::rc::Rc;

struct AuditState {
    trail: Trail<Remembered>,
    /// Of a session also while nothing is recorded: that may change.
    actor: Option<Impersonated>,
    /// Whom the session impersonated before its transaction, should that be rolled back.
    former: Option<Impersonated>,
    /// Whom the token that is being presented is for, as far as that is known.
    candidate: Option<Identity>,
    session: Option<(u64, u32, Rc<Session>)>,
    /// How many of those there were.
    sessions: u64,
    ids: Option<Ids>,
    statements: u64,
    /// When the message came that called a function last.
    call_message: i64,
    /// When the message came whose last statement is on its way or over: an error is that statement's.
    last_message: i64,
    /// What was accessed while no statement was open: by functions that the planner calls, by deferred triggers. It
    /// goes to the next record of a statement.
    pending: Objects,
    /// The user has sent COMMIT or ROLLBACK.
    is_ending: bool,
    /// The running statement ends the impersonation of the session.
    is_leaving: bool,
    /// Code in DETAIL of the error of ours that is being raised.
    reason: Option<&'static str>,
    /// The error that made a COMMIT fail.
    failed_with: Option<SqlState>,
    /// What this transaction changes of who has access to what.
    changes: Waiting,
}

thread_local! {
    static STATE: RefCell<AuditState> = const {
        RefCell::new(AuditState {
            trail: Trail::new(),
            actor: None,
            former: None,
            candidate: None,
            session: None,
            sessions: 0,
            ids: None,
            statements: 0,
            call_message: i64::MIN,
            last_message: i64::MIN,
            pending: Objects::new(),
            is_ending: false,
            is_leaving: false,
            reason: None,
            failed_with: None,
            changes: Waiting::new(),
        })
    };
}

#[cfg(feature = "inject")]
pub fn state() -> String {
    STATE.with_borrow(|state| {
        format!(
            "audit {} {:?} {:?} {} {} {} {} {:?} {:?} {} {}",
            state.trail.is_empty(),
            state.actor.as_ref().map(|actor| &actor.identity),
            state.former.as_ref().map(|actor| &actor.identity),
            state.candidate.is_none(),
            state.pending.list().len(),
            state.is_ending,
            state.is_leaving,
            state.reason,
            state.failed_with,
            state.changes.len(),
            sinks::state(),
        )
    })
}

fn wall_time() -> Timestamp {
    Timestamp(clock::wall_time())
}

/// Whether there is a place for records.
fn is_on() -> bool {
    settings::audit_sinks() != 0
}
