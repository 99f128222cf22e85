//! How the library was loaded.

use crate::pg::{catalog, guc};
use pgrx::pg_sys;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;

static PRELOADED: AtomicBool = AtomicBool::new(false);

/// Whether the library is being loaded before the session's first statement: by `shared_preload_libraries`, by
/// `session_preload_libraries`, or in a parallel worker because its leader has it.
pub fn is_preloading() -> bool {
    // SAFETY: static variables.
    let by_server =
        unsafe { pg_sys::process_shared_preload_libraries_in_progress || pg_sys::ParallelWorkerNumber >= 0 };
    let preloading = by_server || is_listed();
    PRELOADED.store(preloading, Relaxed);
    preloading
}

/// Whether hooks and settings are in place in this session.
pub fn is_preloaded() -> bool {
    PRELOADED.load(Relaxed)
}

fn is_listed() -> bool {
    catalog::setting(c"session_preload_libraries")
        .and_then(|list| guc::split_names(&list))
        .is_some_and(|list| list.iter().any(|name| is_this_library(name)))
}

/// A list may name the library with a directory and with its suffix.
fn is_this_library(name: &str) -> bool {
    let file = name.rsplit('/').next().unwrap_or(name);
    file.strip_suffix(".so").unwrap_or(file) == "immuta_ext"
}
