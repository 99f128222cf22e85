//! What PostgreSQL offers, one call at a time: knows nothing of the rest of this project but `core`.

pub mod acting;
pub mod client;
pub mod clock;
pub mod compat;
pub mod exit;
pub mod expression;
pub mod inject;
pub mod machine;
pub mod option;
pub mod raw;
pub mod report;
pub mod running;
pub mod text;
pub mod thread;
pub mod turn;
pub mod wait;
