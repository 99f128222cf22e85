//! Frames around PostgreSQL's hooks and callbacks, and what they are passed.

mod classify;
pub mod cursor;
pub mod depth;
pub mod dry_run;
pub mod frames;
mod guarded;
pub mod handled;
pub mod handlers;
pub mod login;
pub mod nodes;
pub mod references;
pub mod reported;
pub mod statement;
pub mod xact;
