//! Background workers.

pub mod worker;
pub mod writer;
