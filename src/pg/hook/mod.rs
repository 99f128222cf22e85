//! Frames around PostgreSQL's hooks and callbacks, and what they are passed.

pub mod cursor;
pub mod depth;
pub mod dry_run;
pub mod frames;
#[cfg(not(any(feature = "pg14", feature = "pg15", feature = "pg16", feature = "pg17")))]
pub mod login;
pub mod nodes;
pub mod reported;
pub mod statement;
pub mod xact;
