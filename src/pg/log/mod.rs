//! Keeping secrets out of the server's log, whatever is logged there: statements, their durations and parameters,
//! plans, errors.

mod server_log;

use crate::core::audit::label::{self, LABEL};
use crate::core::audit::{form, redact};
use crate::pg::sys::inject::{self, Point};
use crate::pg::sys::{raw, text};
use once_cell::sync::OnceCell;
use pgrx::pg_sys::ffi::pg_guard_ffi_boundary;
use pgrx::{pg_guard, pg_sys};
use std::borrow::Cow;
use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ops::Range;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicPtr};
use zeroize::Zeroize;

/// Whether everything that the running statement quotes is to be kept out of the log, although nothing in it says so.
static HOLDS_BACK: OnceCell<fn() -> bool> = OnceCell::new();

/// The statement without its literals that was put in place of the one that came; null once its message is over, whose
/// memory is used again.
static SHOWN: AtomicPtr<c_char> = AtomicPtr::new(std::ptr::null_mut());

thread_local! {
    /// Where in the statement that came the secrets were.
    static SECRETS: RefCell<Vec<Range<usize>>> = const { RefCell::new(Vec::new()) };
}

/// When the statement began in which a secret last turned up.
static HELD_AT: AtomicI64 = AtomicI64::new(i64::MIN);

static mut PREVIOUS: pg_sys::emit_log_hook_type = None;

/// Told of each error that ends a statement of the client, with its SQLSTATE as PostgreSQL packs it.
static FAILED: OnceCell<fn(i32)> = OnceCell::new();

/// Whether an audit record is being written: it holds no secret, and is no cause for another one.
static IN_AUDIT: AtomicBool = AtomicBool::new(false);

/// The text of a message that was searched, and whether it may hold a secret, or what could be taken for a record. A
/// message can make PostgreSQL log as many lines as it has statements, each of them with all of its text. Null once the
/// message is over.
static SEARCHED: AtomicPtr<c_char> = AtomicPtr::new(std::ptr::null_mut());
static IS_SENSITIVE: AtomicBool = AtomicBool::new(false);
static HOLDS_LABEL: AtomicBool = AtomicBool::new(false);

/// Installs the hook. Called once, from `_PG_init`.
pub fn install(holds_back: fn() -> bool, failed: fn(i32)) {
    if HOLDS_BACK.set(holds_back).is_ok() && FAILED.set(failed).is_ok() {
        // SAFETY: _PG_init runs before any statement of this process, in its only thread.
        unsafe {
            PREVIOUS = pg_sys::emit_log_hook;
            pg_sys::emit_log_hook = Some(emit_log);
        }
    }
}

type EmitLog = unsafe extern "C-unwind" fn(*mut pg_sys::ErrorData);

/// Plain frame: see [`crate::pg::hook::frames`]. Other hooks get to see what is left.
#[allow(ffi_unwind_calls)]
unsafe extern "C-unwind" fn emit_log(record: *mut pg_sys::ErrorData) {
    // SAFETY: PostgreSQL passes the record that it is about to write.
    unsafe {
        inject::frame(Point::LogBegins);
        if !IN_AUDIT.load(Relaxed) {
            clean(record);
            inject::frame(Point::LogCleaned);
            if (*record).elevel >= pg_sys::PGERROR as c_int {
                report_failure((*record).sqlerrcode);
            }
        }
        if let Some(previous) = PREVIOUS {
            previous(record);
        }
        inject::frame(Point::LogEnds);
    }
}

#[cfg(feature = "inject")]
pub fn state() -> String {
    format!("log {} {}", IN_AUDIT.load(Relaxed), SHOWN.load(Relaxed).is_null())
}

#[pg_guard]
unsafe extern "C-unwind" fn report_failure(sqlstate: c_int) {
    if let Some(failed) = FAILED.get() {
        failed(sqlstate);
    }
}

unsafe extern "C-unwind" {
    fn errstart(level: c_int, domain: *const c_char) -> bool;
    fn errmsg_internal(format: *const c_char, ...) -> c_int;
    fn errhidestmt(hide: bool) -> c_int;
    fn errhidecontext(hide: bool) -> c_int;
    fn errfinish(file: *const c_char, line: c_int, function: *const c_char);
}

/// Writes an audit record, a line of JSON in UTF-8, to the server's log and nowhere else. Nothing of what the session
/// does can keep it from there.
#[allow(ffi_unwind_calls)]
pub fn audit(line: &[u8]) {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let line = if text::is_utf8() { Cow::Borrowed(line) } else { Cow::Owned(form::in_ascii(line)) };
    clean_application_name();
    // Another library may want to see what is logged.
    // SAFETY: static variables that change only while libraries are loaded.
    let (hook, previous) = unsafe { (pg_sys::emit_log_hook, PREVIOUS) };
    let is_alone = previous.is_none() && hook.is_some_and(|hook| std::ptr::fn_addr_eq(hook, emit_log as EmitLog));
    if is_alone && server_log::write(LABEL.to_bytes(), &line) {
        return;
    }
    let Ok(line) = CString::new(&*line) else { return };
    let _writing = Writing::begin();
    // SAFETY: the order in which ereport() calls them; below ERROR errfinish() returns. The guard turns an error (no
    // memory) into a panic that unwinds this frame.
    unsafe {
        pg_guard_ffi_boundary(|| {
            if errstart(pg_sys::LOG_SERVER_ONLY as c_int, std::ptr::null()) {
                errmsg_internal(c"%s%s".as_ptr(), LABEL.as_ptr(), line.as_ptr());
                errhidestmt(true);
                errhidecontext(true);
                errfinish(c"immuta_ext".as_ptr(), 0, c"audit".as_ptr());
            }
        });
    }
}

/// While it lives, what is logged is a record of ours.
struct Writing {
    was_writing: bool,
}

impl Writing {
    fn begin() -> Writing {
        Writing { was_writing: IN_AUDIT.swap(true, Relaxed) }
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        IN_AUDIT.store(self.was_writing, Relaxed);
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn clean(record: *mut pg_sys::ErrorData) {
    // SAFETY: the record is live; its texts are null or NUL-terminated.
    unsafe {
        let record = &mut *record;
        clean_application_name();
        disarm(record);
        let statement = bytes(pg_sys::debug_query_string);
        let is_shown = !SHOWN.load(Relaxed).is_null() && pg_sys::debug_query_string == SHOWN.load(Relaxed);
        let is_told = is_shown || statement.is_some_and(|statement| is_sensitive_message(statement));
        let is_held = is_told || is_held_back() || HOLDS_BACK.get().is_some_and(|holds_back| holds_back());
        let quoted = [record.message, record.detail, record.detail_log, record.context, record.internalquery];
        if !is_held && !quoted.into_iter().any(|quoted| bytes(quoted).is_some_and(redact::is_sensitive)) {
            return;
        }
        let place = Place::of(record);
        // pgAudit logs above LOG by default, both it and auto_explain at any level below ERROR. Notices are the client's as
        // well: only those that report a statement, or quote a secret's, are changed.
        let is_for_server = record.elevel <= pg_sys::LOG_SERVER_ONLY as c_int;
        let is_quoting = bytes(record.message)
            .is_some_and(|message| redact::is_sensitive(message) || redact::is_report(message));
        if is_for_server || record.elevel < pg_sys::PGERROR as c_int && is_quoting {
            replace(&mut record.message, place, redact::logged);
        } else if is_told && is_misread(record, statement.filter(|_| !is_shown)) {
            // An error of the parser quotes the words it stumbled over.
            replace(&mut record.message, place, |message| redact::message(message, true));
        }
        if !is_shown && (is_told || is_held && !record.hide_stmt) {
            record.hide_stmt |= !show_without_literals();
        }
        replace(&mut record.detail, place, |detail| redact::message(detail, false));
        replace(&mut record.detail_log, place, |detail| redact::message(detail, false));
        replace(&mut record.context, place, |lines| redact::message(lines, false));
        replace(&mut record.internalquery, place, redact::statement);
    }
}

/// [`redact::is_sensitive`], asked once for a message.
///
/// # Safety
/// The statement is `debug_query_string`'s.
unsafe fn is_sensitive_message(statement: &[u8]) -> bool {
    // SAFETY: by contract.
    unsafe { search(statement).0 }
}

/// Whether a message may hold a secret, and what could be taken for a record.
///
/// # Safety
/// The statement is `debug_query_string`'s.
unsafe fn search(statement: &[u8]) -> (bool, bool) {
    // SAFETY: by contract; MessageContext is live, or null in processes that have none.
    unsafe {
        if pg_sys::debug_query_string == SEARCHED.load(Relaxed) {
            return (IS_SENSITIVE.load(Relaxed), HOLDS_LABEL.load(Relaxed));
        }
        let (is_sensitive, holds_label) = (redact::is_sensitive(statement), label::is_in(statement));
        if forget_with_message() {
            SEARCHED.store(pg_sys::debug_query_string.cast_mut(), Relaxed);
            IS_SENSITIVE.store(is_sensitive, Relaxed);
            HOLDS_LABEL.store(holds_label, Relaxed);
        }
        (is_sensitive, holds_label)
    }
}

/// Leaves nothing in a line that could be taken for an audit record.
///
/// # Safety
/// The record is live, its texts are null or NUL-terminated.
unsafe fn disarm(record: &mut pg_sys::ErrorData) {
    let place = Place::of(record);
    // SAFETY: by contract; a copy in MessageContext lives as long as the message.
    unsafe {
        for field in [
            &mut record.message,
            &mut record.detail,
            &mut record.detail_log,
            &mut record.hint,
            &mut record.context,
            &mut record.internalquery,
        ] {
            if bytes(*field).is_some_and(label::is_in) {
                replace(field, place, label::without);
            }
        }
        if let Some(statement) = bytes(pg_sys::debug_query_string).filter(|_| !record.hide_stmt)
            && search(statement).1
        {
            let copy = copy(&label::without(statement), pg_sys::MessageContext);
            if copy.is_null() {
                record.hide_stmt = true;
            } else {
                pg_sys::debug_query_string = copy;
                search(bytes(copy).unwrap_or_default());
            }
        }
    }
}

/// The client's name for itself can be a part of each line (`log_line_prefix`). PostgreSQL replaces characters in it, too.
fn clean_application_name() {
    // SAFETY: null, or the setting's text. Only what a user set holds the label, which is never a constant.
    unsafe {
        let name = pg_sys::application_name;
        if let Some(shown) = bytes(name).filter(|name| label::is_in(name)) {
            label::remove(std::slice::from_raw_parts_mut(name.cast::<u8>(), shown.len()));
        }
    }
}

/// Whether the error is about a word in a statement that holds a secret: of the text that came, or of the one that is
/// shown in its place.
fn is_misread(record: &pg_sys::ErrorData, came: Option<&[u8]>) -> bool {
    let position = usize::try_from(record.cursorpos).unwrap_or(0);
    let is_within = |secrets: &[Range<usize>]| secrets.iter().any(|range| range.contains(&position));
    position > 0
        && match came {
            Some(statement) => is_within(&redact::sensitive_ranges(statement)),
            None => SECRETS.with_borrow(|secrets| is_within(secrets)),
        }
}

/// A secret turned up: of whatever the current statement makes PostgreSQL log (parameters of statements in functions,
/// say), literals are left out.
pub fn hold_back() {
    HELD_AT.store(raw::GetCurrentStatementStartTimestamp(), Relaxed);
}

fn is_held_back() -> bool {
    HELD_AT.load(Relaxed) == raw::GetCurrentStatementStartTimestamp()
}

/// The statement that is running holds a secret: from now on it is shown without its literals, as STATEMENT in the log,
/// in `pg_stat_activity` and by `current_query()`.
pub fn conceal_statement() {
    hold_back();
    // SAFETY: as in show_without_literals(); in a function call PostgreSQL has a statement and a message.
    unsafe { show_without_literals() };
}

/// Shows the statement that is running in `pg_stat_activity`, unless its text may hold a secret.
pub fn report_statement() {
    // SAFETY: null or NUL-terminated; the text is copied.
    unsafe {
        let shown = pg_sys::debug_query_string;
        if bytes(shown).is_some_and(|statement| !redact::is_sensitive(statement)) {
            raw::pgstat_report_activity(pg_sys::BackendState::STATE_RUNNING, shown);
        }
    }
}

/// What comes from the client is shown without its literals for the rest of the message that it came with. `false` if
/// there is no memory for that.
///
/// # Safety
/// `debug_query_string` is null or NUL-terminated.
unsafe fn show_without_literals() -> bool {
    // SAFETY: by contract; MessageContext lives as long as the message, or is null in processes that have none;
    // pg_stat_activity gets a copy.
    unsafe {
        let Some(statement) = bytes(pg_sys::debug_query_string) else { return true };
        if pg_sys::debug_query_string == SHOWN.load(Relaxed) {
            return true;
        }
        let secrets = redact::sensitive_ranges(statement);
        let shown = copy(&redact::statement(statement), pg_sys::MessageContext);
        if !shown.is_null() && forget_with_message() {
            SHOWN.store(shown, Relaxed);
            SECRETS.set(secrets);
            pg_sys::debug_query_string = shown;
            raw::pgstat_report_activity(pg_sys::BackendState::STATE_RUNNING, shown);
            return true;
        }
        false
    }
}

/// Has what is remembered of the message forgotten when its memory is given back. `false` if there is none for that.
///
/// # Safety
/// MessageContext is null or live.
unsafe fn forget_with_message() -> bool {
    // SAFETY: by contract; the callback lies in the context that calls it, and is complete when it is registered.
    unsafe {
        let callback = allocate(size_of::<pg_sys::MemoryContextCallback>(), pg_sys::MessageContext)
            as *mut pg_sys::MemoryContextCallback;
        if callback.is_null() {
            return false;
        }
        (*callback).func = Some(forget_message);
        (*callback).arg = std::ptr::null_mut();
        pg_sys::MemoryContextRegisterResetCallback(pg_sys::MessageContext, callback);
        true
    }
}

/// Called by PostgreSQL before it frees the message's memory. Cannot fail.
unsafe extern "C-unwind" fn forget_message(_: *mut c_void) {
    SEARCHED.store(std::ptr::null_mut(), Relaxed);
    SHOWN.store(std::ptr::null_mut(), Relaxed);
}

/// Where the texts of a record are.
#[derive(Clone, Copy)]
struct Place {
    context: pg_sys::MemoryContext,
    /// Below ERROR PostgreSQL frees the texts that it finds in the record, and nobody those that are not there any more.
    /// After an error it gives back all of the context.
    is_freed: bool,
}

impl Place {
    fn of(record: &pg_sys::ErrorData) -> Place {
        Place { context: record.assoc_context, is_freed: record.elevel < pg_sys::PGERROR as c_int }
    }
}

/// # Safety
/// `field` is null or a NUL-terminated text of PostgreSQL's own in the context, which is live.
unsafe fn replace(field: &mut *mut c_char, place: Place, redact: impl FnOnce(&[u8]) -> Vec<u8>) {
    // SAFETY: by contract; all texts of a record are allocated by errmsg() and its like. The text is read no more once it
    // is wiped.
    unsafe {
        let before = *field;
        let Some(text) = bytes(before) else { return };
        let (length, redacted) = (text.len(), redact(text));
        if redacted == text {
            return;
        }
        *field = copy(&redacted, place.context);
        if place.is_freed {
            std::slice::from_raw_parts_mut(before.cast::<u8>(), length).zeroize();
            pg_sys::pfree(before.cast());
        }
    }
}

/// # Safety
/// `pointer` is null or NUL-terminated, and its text outlives the result.
unsafe fn bytes<'a>(pointer: *const c_char) -> Option<&'a [u8]> {
    // SAFETY: by contract.
    (!pointer.is_null()).then(|| unsafe { CStr::from_ptr(pointer) }.to_bytes())
}

/// A copy with a NUL at its end; null if there is no memory for it, for this is no place to fail.
///
/// # Safety
/// `context` is null or live.
unsafe fn copy(text: &[u8], context: pg_sys::MemoryContext) -> *mut c_char {
    // SAFETY: by contract; the memory holds the text and its NUL.
    unsafe {
        let memory = allocate(text.len() + 1, context) as *mut u8;
        if !memory.is_null() {
            std::ptr::copy_nonoverlapping(text.as_ptr(), memory, text.len());
            *memory.add(text.len()) = 0;
        }
        memory as *mut c_char
    }
}

/// Null if there is no memory.
///
/// # Safety
/// `context` is null or live.
unsafe fn allocate(size: usize, context: pg_sys::MemoryContext) -> *mut c_void {
    if context.is_null() {
        return std::ptr::null_mut();
    }
    // SAFETY: by contract.
    unsafe { pg_sys::MemoryContextAllocExtended(context, size, pg_sys::MCXT_ALLOC_NO_OOM as c_int) }
}
