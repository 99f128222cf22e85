//! immuta_ext: one service login, every transaction as its end user. ARCHITECTURE.md has the rooms, from the top down.

mod api;
mod audit;
mod core;
mod error;
mod files;
mod guard;
mod hooks;
mod jobs;
mod pg;
mod provider;
mod rights;
mod session;
mod settings;
mod sql;
#[cfg(any(test, feature = "pg_test"))]
mod tests;
#[cfg(test)]
pub use tests::pg_test;

use std::ffi::CStr;

pgrx::pg_module_magic!(name = c"immuta_ext", version = VERSION);

/// As in Cargo.toml, for `pg_get_loaded_modules()`.
const VERSION: &CStr = match CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
    Ok(version) => version,
    Err(_) => c"",
};

/// Called when the library is loaded. Loaded in the middle of a session it does nothing: see [`api`].
#[pgrx::pg_guard]
extern "C-unwind" fn _PG_init() {
    hooks::answer();
    if pg::preload::is_preloading() {
        pg::sys::report::disable_backtraces();
        if let Err(name) = settings::init() {
            pg::sys::report::raise(error::Error::SettingOfConnection(name).into());
        }
        pg::shared::reserve(settings::shared_token_cache_size);
        hooks::install();
        hooks::catch_up();
    }
}
