//! What can be decided without PostgreSQL: no `pg_sys`, no I/O, no clock. Everything here is unit-tested by
//! plain `#[test]`s, which link only as long as that stays true.

pub mod audit;
pub mod guard;
pub mod identity;
pub mod provider;
pub mod rights;
pub mod session;
pub mod template;
pub mod time;
pub mod token;
pub mod version;
