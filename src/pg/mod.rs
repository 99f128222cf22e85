//! The only unsafe code of the project: thin, named after PostgreSQL's own modules, deciding nothing.

#![allow(unsafe_code)]

pub mod catalog;
pub mod chain;
pub mod client;
pub mod compat;
pub mod cursor;
pub mod dry_run;
pub mod exit;
pub mod gate;
pub mod guc;
pub mod keys;
pub mod log;
pub mod name_guc;
pub mod nodes;
pub mod preload;
pub mod raw;
pub mod report;
pub mod reported;
pub mod role;
pub mod saved;
pub mod server_log;
pub mod shared;
pub mod statement;
pub mod table;
pub mod text;
pub mod thread;
pub mod turn;
pub mod wait;
pub mod worker;
pub mod writer;
pub mod xact;
