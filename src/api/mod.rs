//! The functions behind those that `sql/` defines. Text travels as `bytea` in UTF-8, so that databases in other
//! encodings work; `sql/` converts.

// Rows are spelled out where they are returned: that is how pgrx wants them.
#![allow(clippy::type_complexity)]

mod access;
mod audit;
mod convert;
mod jwt;
mod masking;
mod secrets;
mod session;
