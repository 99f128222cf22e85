//! Looking things up in the system catalogs, remembered until an invalidation says otherwise.

mod control_roles;
mod extension;
mod functions;
mod installation;
mod lookup;
mod objects;
pub mod roles;
pub mod tables;

pub use control_roles::holders;
pub use extension::*;
pub use functions::*;
pub use installation::*;
pub use lookup::*;
pub use objects::*;
