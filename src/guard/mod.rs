//! What is refused: to a login that has presented nobody, and to the user who is impersonated.

pub mod names;
pub mod under_a_token;
pub mod watch;
pub mod without_a_token;
