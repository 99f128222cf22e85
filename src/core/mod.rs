//! What can be decided without PostgreSQL: no `pg_sys`, no I/O, no clock. Everything here is unit-tested by
//! plain `#[test]`s, which link only as long as that stays true.

pub mod answers;
pub mod audit;
pub mod cache;
pub mod connecting;
pub mod endpoint;
pub mod guard;
pub mod identity;
pub mod jwt;
pub mod label;
pub mod log_prefix;
pub mod names;
pub mod nesting;
pub mod outage;
pub mod presented;
pub mod record;
pub mod redact;
pub mod refusals;
pub mod rules;
pub mod session;
pub mod settings;
pub mod target;
pub mod template;
pub mod time;
pub mod token;
pub mod trail;
pub mod utility;
