//! Looking things up in the system catalogs, remembered until an invalidation says otherwise.

mod installation;
mod lookup;
pub mod roles;
pub mod tables;

pub use installation::*;
pub use lookup::*;
