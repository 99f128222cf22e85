//! Faults on demand, for tests only: with the feature `inject`, which no build has that anybody uses, a superuser's setting
//! lets the next message fail at a point of theirs, and a variable of the environment makes the library that of the next
//! version. Without it nothing of this is compiled.

/// Declares the points, so that a test can try all of them.
macro_rules! points {
    ($($name:ident),* $(,)?) => {
        /// Where something can fail: before and after whatever a hook or callback changes.
        // Not every server passes all of them.
        #[cfg_attr(not(has_oauth_logins), allow(dead_code))]
        #[derive(Clone, Copy, Debug)]
        #[repr(C)]
        pub enum Point {
            $($name),*
        }

        #[cfg(feature = "inject")]
        const POINTS: &[Point] = &[$(Point::$name),*];
    };
}

points! {
    // The frames of the hooks: before what was there, after it, and when ours is done.
    UtilityBegins, UtilityRan, UtilityEnds, PlanBegins, PlanRan, PlanEnds, StartBegins, StartRan, StartEnds,
    RunBegins, RunRan, RunEnds, FinishBegins, FinishEnds, EndBegins, EndRan, EndEnds, AnalysisBegins, AnalysisEnds,
    PermissionsChecked, FunctionBegins, FunctionAllowed, ObjectChanged, LogBegins, LogCleaned, LogEnds,
    // What handlers remember.
    ExecutionBegun, StatementOpened, StatementClosed, NamesRemembered, CursorNoted, TrialBegun, TrialUndone,
    // A token or a name, from its setting to the switch.
    TokenTaken, TokenKept, NameChecked, StatementUndone, Resolved, Cached, UseRecorded, SingleUserSeen, Settled,
    NameShown, SessionUserRaised, RoleSet, Locked, SettingsApplied, Labelled, Switched, SlotTaken, Audited, Started,
    SessionKnows, Guarded, SetAgain,
    // Records.
    RecordCounted, RecordLogged, RecordFiled, RecordQueued, ChangesRecorded,
    // The end of a transaction, and of a subtransaction.
    CommitBegins, CommitAudited, SavepointUndone, SettingsUndone, TemporaryDropped, EndsTransaction, Unlocked, TransactionClosed,
    GateCleared, AuditClosed, Unlabelled, Forgotten, SubtransactionStarts, SubtransactionStarted,
    SubtransactionCommits, SubtransactionCommitted, SubtransactionAborts, SubtransactionAborted, RolledBack,
    // The session's own impersonation: verified in each transaction, and left.
    Relocked, Verified, LeaveBegins, LeftTemporary, LeftRole, LeftSettings, LeftNames, Left,
    // Masks: looked up, read in, put into a query, bound to its plan.
    MaskedTablesKnown, MasksLoaded, MaskBegins, MaskRead, MaskKept, ParametersRead, TableMasked, QueryMasked, CopyMasked, PlanBound,
    // What runs as somebody else.
    DryRunBegins, DryRunBegun, DryRunLooked, DryRunEnds, DryRunRecorded, ActingBegins, ActingEnds, TurnTaken, LoginCounted,
    // A login with OAuth.
    OauthBegins, OauthJudged, OauthNamed,
}

/// Fails here if a test wants that. In Rust frames.
#[cfg(not(feature = "inject"))]
#[inline(always)]
pub fn point(_: Point) {}

/// The same in plain frames, which an error leaves by longjmp.
#[cfg(not(feature = "inject"))]
#[inline(always)]
pub fn frame(_: Point) {}

/// The version of this library.
#[cfg(not(feature = "inject"))]
#[inline(always)]
pub fn version() -> &'static str {
    env!("CARGO_PKG_VERSION")
}

#[cfg(feature = "inject")]
pub use armed::{frame, install, point, version};

#[cfg(feature = "inject")]
mod armed {
    use super::{POINTS, Point};
    use crate::pg::sys::raw;
    use crate::pg::sys::report::{Report, raise};
    use once_cell::sync::OnceCell;
    use pgrx::guc::{GucContext, GucFlags, GucRegistry, GucSetting};
    use pgrx::{PgSqlErrorCode, pg_guard, pg_sys};
    use std::ffi::{CStr, CString, c_char, c_void};
    use std::sync::atomic::{AtomicI64, AtomicU32, AtomicUsize, Ordering::Relaxed};

    /// How something fails.
    const KINDS: [&str; 4] = ["nothing", "error", "cancel", "panic"];

    static NEXT: GucSetting<bool> = GucSetting::<bool>::new(false);
    static LEVER: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));
    static STATE: OnceCell<fn() -> String> = OnceCell::new();
    /// When it was armed: the message that does so fails nowhere.
    static SINCE: AtomicI64 = AtomicI64::new(i64::MAX);
    static WHERE: AtomicUsize = AtomicUsize::new(usize::MAX);
    static HOW: AtomicUsize = AtomicUsize::new(0);
    /// At which time of coming by.
    static WHEN: AtomicU32 = AtomicU32::new(0);
    /// How often each point was passed since.
    static PASSED: [AtomicU32; POINTS.len()] = [const { AtomicU32::new(0) }; POINTS.len()];

    /// Defines the setting. `POINT KIND TIME` arms; SHOW tells what the session remembers, and which points were passed.
    pub fn install(state: fn() -> String) {
        if STATE.set(state).is_err() {
            return;
        }
        if is_next() {
            GucRegistry::define_bool_guc(
                c"bodata.next",
                c"New in the version after this one.",
                c"For tests only.",
                &NEXT,
                GucContext::Userset,
                GucFlags::default(),
            );
        }
        // SAFETY: the hooks have the signatures that guc.c expects and live as long as the process.
        unsafe {
            GucRegistry::define_string_guc_with_hooks(
                c"bodata.inject",
                c"Where the next message fails, how, and at which time of coming by.",
                c"For tests only.",
                &LEVER,
                GucContext::Suset,
                GucFlags::NO_SHOW_ALL,
                Some(check),
                None,
                Some(show),
            );
        }
    }

    fn is_next() -> bool {
        std::env::var_os("IMMUTA_NEXT_VERSION").is_some()
    }

    /// The version of this library, or the one after it.
    pub fn version() -> &'static str {
        if is_next() { concat!(env!("CARGO_PKG_VERSION"), ".1") } else { env!("CARGO_PKG_VERSION") }
    }

    /// What is new in the version after this one.
    #[pgrx::pg_extern(sql = false)]
    fn immuta_next() -> bool {
        NEXT.get()
    }

    #[pg_guard]
    unsafe extern "C-unwind" fn check(
        value: *mut *mut c_char,
        _extra: *mut *mut c_void,
        _source: pg_sys::GucSource::Type,
    ) -> bool {
        // SAFETY: guc.c passes a NUL-terminated value.
        let text = unsafe { CStr::from_ptr(*value) }.to_string_lossy().into_owned();
        let words: Vec<&str> = text.split(' ').collect();
        let &[point, kind, time] = words.as_slice() else { return text.is_empty() };
        let (Some(at), Some(how), Ok(when)) = (
            POINTS.iter().position(|known| format!("{known:?}") == point),
            KINDS.iter().position(|known| *known == kind),
            time.parse(),
        ) else {
            return false;
        };
        PASSED.iter().for_each(|count| count.store(0, Relaxed));
        WHERE.store(at, Relaxed);
        HOW.store(how, Relaxed);
        WHEN.store(when, Relaxed);
        // The postmaster has no messages: what it is told holds for sessions that begin then, from their first moment on.
        SINCE.store(Some(raw::GetCurrentStatementStartTimestamp()).filter(|at| *at != 0).unwrap_or(-1), Relaxed);
        true
    }

    #[pg_guard]
    unsafe extern "C-unwind" fn show() -> *const c_char {
        let level = raw::NewGUCNestLevel();
        // SAFETY: the level that was pushed just now.
        unsafe { pg_sys::AtEOXact_GUC(true, level) };
        // SAFETY: static variables.
        let held = unsafe {
            (
                pg_sys::InterruptHoldoffCount,
                pg_sys::QueryCancelHoldoffCount,
                pg_sys::CritSectionCount,
                pg_sys::QueryCancelPending,
                pg_sys::ProcDiePending,
            )
        };
        let passed: Vec<String> = POINTS
            .iter()
            .zip(&PASSED)
            .map(|(point, count)| format!("\"{point:?}\": {}", count.load(Relaxed)))
            .collect();
        let rest = STATE.get().map(|state| state()).unwrap_or_default();
        let state = format!("settings {level}; held {held:?}; outer {}; {rest}", raw::GetOuterUserId().to_u32());
        let state = state.replace('\\', "").replace('"', "'");
        let shown = format!("{{\"state\": \"{state}\", \"passed\": {{{}}}}}", passed.join(", "));
        let shown = CString::new(shown).unwrap_or_default();
        // SAFETY: NUL-terminated; the copy lives as long as the statement.
        unsafe { pg_sys::pstrdup(shown.as_ptr()) }
    }

    pub fn point(point: Point) {
        let since = SINCE.load(Relaxed);
        if since == i64::MAX || raw::GetCurrentStatementStartTimestamp() == since {
            return;
        }
        let time = PASSED[point as usize].fetch_add(1, Relaxed) + 1;
        if WHERE.load(Relaxed) != point as usize || WHEN.load(Relaxed) != time {
            return;
        }
        match KINDS[HOW.swap(0, Relaxed)] {
            "error" => raise(Report {
                sqlstate: PgSqlErrorCode::ERRCODE_IO_ERROR,
                message: format!("injected at {point:?}"),
                detail: "INJECTED",
                hint: "",
            }),
            "cancel" => {
                // SAFETY: what the signal handler does.
                unsafe {
                    pg_sys::QueryCancelPending = 1;
                    pg_sys::InterruptPending = 1;
                }
                pgrx::check_for_interrupts!();
            }
            // What this build is for: the guards of the hooks must stop it.
            #[allow(clippy::panic)]
            "panic" => panic!("injected at {point:?}"),
            _ => {}
        }
    }

    pub fn frame(point: Point) {
        // SAFETY: in a plain frame.
        unsafe { guarded(point) }
    }

    #[pg_guard]
    unsafe extern "C-unwind" fn guarded(at: Point) {
        point(at);
    }
}
