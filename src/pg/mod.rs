//! The only unsafe code of the project: thin, named after PostgreSQL's own modules, deciding nothing.

#![allow(unsafe_code)]

pub mod catalog;
pub mod gate;
pub mod guc;
pub mod hook;
pub mod job;
pub mod log;
pub mod mask;
pub mod preload;
pub mod residue;
pub mod shared;
pub mod switch;
pub mod sys;
