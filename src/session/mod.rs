//! Whom this session impersonates.

pub mod begin;
pub mod by_name;
pub mod confirm;
pub mod connection;
pub mod lasting;
pub mod state;
