//! Settings, as PostgreSQL's guc.c has them.

mod kinds;
mod levels;
mod misleading;
pub mod names;
pub mod saved;
mod token;
mod values;

pub use kinds::*;
pub use levels::*;
pub use misleading::*;
pub use token::*;
pub use values::*;
