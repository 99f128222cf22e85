//! Who may present whom, and which role a user has: the only place of that rule.

pub mod login;
pub mod mapping;
