//! The settings, a row each: name, default, limits, who may set it, what a change makes stale, and its description. Each
//! is private to its file, validated when it is set, and read through a typed getter.

mod audit;
mod guard;
mod impersonation;
mod jwt;
mod provider;
mod read;
mod token;

pub use audit::*;
pub use guard::*;
pub use impersonation::*;
pub use jwt::*;
pub use provider::*;
pub use token::*;

use crate::core::identity::Provider;
use crate::pg::guc::names;
use crate::pg::sys::compat;
use crate::pg::{catalog, guc};
use std::ffi::{CStr, CString};

/// The settings of a file, as `ROWS`, in the order in which they are defined: what one is checked against comes first.
macro_rules! settings {
    ($($(#[$doc:meta])* $name:ident: $kind:ty = $row:expr;)*) => {
        $($(#[$doc])* static $name: Setting<$kind> = $row;)*

        pub(super) static ROWS: &[&dyn crate::pg::guc::SettingRow] = &[$(&$name),*];
    };
}
use settings;

fn all() -> impl Iterator<Item = &'static &'static dyn guc::SettingRow> {
    [token::ROWS, guard::ROWS, impersonation::ROWS, provider::ROWS, jwt::ROWS, audit::ROWS].into_iter().flatten()
}

/// The values in force of all settings that say which provider is asked, and how.
pub fn of_provider() -> Vec<(&'static CStr, Option<CString>)> {
    let counts = |row: &&&dyn guc::SettingRow| row.changes() == guc::Changes::Provider;
    all().filter(counts).map(|row| (row.name(), catalog::setting(row.name()))).collect()
}

/// Defines all settings. Called once, from `_PG_init`. The error names one that came with the connection and may not: where the
/// session loads the library, it has displaced what the administrator set, and PostgreSQL would go on with the default.
pub fn init() -> Result<(), String> {
    let of_connection = guc::of_connection();
    all().for_each(|row| row.define());
    if let Some(refused) = of_connection.iter().find(|name| !guc::is_of_connection(name)) {
        return Err(refused.to_string_lossy().into_owned());
    }
    guc::define_token(|| token_provider() != Provider::Local);
    names::define();
    compat::reserve_prefix(c"bodata");
    compat::reserve_prefix(c"immuta");
    Ok(())
}
