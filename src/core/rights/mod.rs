//! Who may present whom, and which role a user has.

pub mod decision;
pub mod rules;
pub mod target;
