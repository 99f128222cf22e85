//! What all sessions of the server share: counters, what is known of tokens and of issuers' keys, who impersonates whom
//! now, and who writes the audit table.
//!
//! It lives in shared memory, which only `shared_preload_libraries` can reserve. Without it each session has a copy
//! of its own and sees only itself; from 17 on sessions share what is known of tokens all the same (`tables`). Everything is
//! atomic: there is no lock to wait for, or to be left behind.

pub mod answers;
pub mod keys;
mod memory;
mod sessions;
mod tables;
mod versions;
mod writers;

pub use memory::*;
pub use sessions::*;
pub use writers::*;
