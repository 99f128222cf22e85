//! What providers say, and for how long it counts.

pub mod answers;
mod body;
pub mod cache;
pub mod endpoint;
pub mod flight;
pub mod jwt;
pub mod outage;
pub mod refusals;
