//! Where the tables of tokens are: in memory that was reserved when the server started, or else, from 17 on, in memory that
//! sessions find by its name.

use crate::pg::shared::answers::{ASKED_SETS, AnswerSet, AskedSet, WAYS};
use crate::pg::sys::{compat, machine, report};
use pgrx::{PgSqlErrorCode, PgTryBuilder, pg_sys};
use std::cell::Cell;
use std::ffi::{CStr, c_int, c_void};
use std::sync::atomic::Ordering::*;
use std::sync::atomic::{AtomicPtr, AtomicUsize};

/// All zero is a value.
#[repr(C)]
struct Tables {
    asked: [AskedSet; ASKED_SETS],
    answers: AtomicUsize,
    first: [AnswerSet; 0],
}

/// Names of the memory in which it stands how many sets of answers there are, and of the tables.
const DECIDED: &CStr = name(concat!("immuta_ext ", env!("CARGO_PKG_VERSION"), "\0"));
const NAMED: &CStr = name(concat!("immuta_ext ", env!("CARGO_PKG_VERSION"), " tables\0"));

const fn name(text: &str) -> &CStr {
    match CStr::from_bytes_with_nul(text.as_bytes()) {
        Ok(name) => name,
        Err(_) => c"immuta_ext",
    }
}

static TABLES: AtomicPtr<Tables> = AtomicPtr::new(std::ptr::null_mut());

thread_local! {
    /// Whether this session has looked for memory that sessions find by its name.
    static LOOKED: Cell<bool> = const { Cell::new(false) };
    /// How many sets of answers that memory is to have, for whoever sets it up.
    static WANTED: Cell<usize> = const { Cell::new(0) };
}

/// Sets of the table of answers for so many tokens: not more than an eighth of the machine's memory.
pub(super) fn sets_for(tokens: usize) -> usize {
    tokens.div_ceil(WAYS).min(machine::memory() / 8 / size_of::<AnswerSet>())
}

/// Bytes of tables with so many sets of answers.
pub(super) fn size(sets: usize) -> usize {
    size_of::<Tables>() + sets * size_of::<AnswerSet>()
}

/// Reserved memory becomes tables, for all processes to come.
///
/// # Safety
/// Called while shared memory is set up, in one process.
pub(super) unsafe fn attach(sets: usize) {
    const NAME: &CStr = c"immuta_ext tokens";
    // SAFETY: by contract; the memory holds `size(sets)` bytes.
    unsafe {
        let mut found = false;
        let memory = pg_sys::ShmemInitStruct(NAME.as_ptr(), size(sets), &mut found);
        if !found {
            empty(memory, sets);
        }
        TABLES.store(memory.cast(), Relaxed);
    }
}

/// # Safety
/// The memory holds `size(sets)` bytes, and nobody else knows it.
unsafe fn empty(memory: *mut c_void, sets: usize) {
    // SAFETY: by contract; all zero is a value of everything in it.
    unsafe {
        std::ptr::write_bytes(memory as *mut u8, 0, size(sets));
        (*(memory as *mut Tables)).answers.store(sets, Relaxed);
    }
}

/// Finds the tables of sessions that loaded the library themselves, if there are none from the start, or makes them, with room
/// for so many tokens: whoever is first decides that for all sessions until the server starts again, or else what one of them is
/// told to forget the others would not. Where the tables cannot be had, this session knows what it asks itself. To be called in a
/// statement, where no lock of PostgreSQL's own (LWLock) is held.
pub fn join(tokens: usize) {
    if !TABLES.load(Relaxed).is_null() || LOOKED.get() {
        return;
    }
    // What is made on the way belongs to the process, also where it comes to nothing: no transaction looks for it at its end.
    // SAFETY: PostgreSQL's own variable, put back below.
    let owner = unsafe {
        let owner = pg_sys::CurrentResourceOwner;
        pg_sys::CurrentResourceOwner = std::ptr::null_mut();
        owner
    };
    let memory = PgTryBuilder::new(move || {
        // SAFETY: what sets up the memory makes something of that size; versions of the library do not share it.
        unsafe {
            WANTED.set(sets_for(tokens));
            let decided = compat::named_memory(DECIDED, size_of::<AtomicUsize>(), decide)?;
            let sets = (*(decided as *const AtomicUsize)).load(Relaxed);
            WANTED.set(sets);
            (sets > 0).then(|| compat::named_memory(NAMED, size(sets), set_up)).flatten()
        }
    })
    .catch_when(PgSqlErrorCode::ERRCODE_QUERY_CANCELED, |error| error.rethrow())
    .catch_others(|_| {
        // SAFETY: those that were taken on the way; there were none before. The error counted no longer as held what holds
        // interrupts back, and so does this.
        unsafe { pg_sys::LWLockReleaseAll() };
        report::log(
            "memory for what sessions know together of tokens cannot be had",
            "This session asks the token provider for itself. Look at dynamic_shared_memory_type, /dev/shm and bodata.shared_token_cache_size.",
        );
        None
    })
    // SAFETY: as it was.
    .finally(move || unsafe { pg_sys::CurrentResourceOwner = owner })
    .execute();
    LOOKED.set(true);
    if let Some(memory) = memory {
        // SAFETY: the callback stays valid. PostgreSQL calls it before it takes the memory away from a process that ends, and
        // before it aborts what that process was doing.
        unsafe { pg_sys::before_shmem_exit(Some(leave), 0.into()) };
        TABLES.store(memory.cast(), Relaxed);
    }
}

/// Called by PostgreSQL, which lets nobody else in meanwhile. Cannot fail.
unsafe extern "C-unwind" fn set_up(memory: *mut c_void) {
    // SAFETY: the memory was made for this size just now.
    unsafe { empty(memory, WANTED.get()) };
}

/// The same.
unsafe extern "C-unwind" fn decide(memory: *mut c_void) {
    // SAFETY: the memory was made for that just now.
    unsafe { (*(memory as *mut AtomicUsize)).store(WANTED.get(), Relaxed) };
}

/// The process ends.
unsafe extern "C-unwind" fn leave(_code: c_int, _arg: pg_sys::Datum) {
    TABLES.store(std::ptr::null_mut(), Relaxed);
}

/// Empty without shared memory.
pub(super) fn answer_sets() -> &'static [AnswerSet] {
    let tables = TABLES.load(Relaxed);
    if tables.is_null() {
        return &[];
    }
    // SAFETY: the memory stays as long as the process, or until leave(); it holds as many sets as it says.
    unsafe { std::slice::from_raw_parts((*tables).first.as_ptr(), (*tables).answers.load(Relaxed)) }
}

/// Empty without shared memory.
pub(super) fn asked_sets() -> &'static [AskedSet] {
    let tables = TABLES.load(Relaxed);
    // SAFETY: null, or as in answer_sets().
    unsafe { tables.as_ref() }.map_or(&[], |tables| &tables.asked)
}
