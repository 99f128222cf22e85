//! From a user to the role that is impersonated.

use crate::config;
use crate::core::identity::{Identity, Mapping};
use crate::core::target::{self, OffLimits};
use crate::error::Error;
use crate::pg::catalog::Installation;
use crate::pg::role;

/// The role this user is mapped to, checked against everything that must not be impersonated. Roles are looked up at
/// each use: nothing is remembered beyond the catalog generation it was found in.
pub fn mapped_role(
    installed: &Installation,
    identity: &Identity,
    mapping: &Mapping,
    impersonator: u32,
) -> Result<u32, Error> {
    let mapped = match mapping {
        Mapping::Explicit(role) => *role,
        Mapping::ByUserName => by_user_name(installed, identity).ok_or(Error::NotMapped)?,
        Mapping::Unmapped => return Err(Error::NotMapped),
    };
    check_target(installed, mapped, impersonator)?;
    Ok(mapped)
}

/// A name is not a credential: it reaches only roles that are marked for it.
fn by_user_name(installed: &Installation, identity: &Identity) -> Option<u32> {
    if !config::maps_by_username(&identity.iamid) {
        return None;
    }
    let found = role::by_name(&identity.userid)?;
    role::is_member(found, installed.mappable).then_some(found)
}

/// Refuses roles that do not exist or carry privileges beyond those on data.
pub fn check_target(installed: &Installation, mapped: u32, impersonator: u32) -> Result<(), Error> {
    let roles = role::with_memberships(mapped);
    if roles.is_empty() {
        return Err(Error::NotMapped);
    }
    let off_limits =
        OffLimits { impersonator, extension_owner: installed.owner, control_roles: installed.control_roles };
    target::refusal(&roles, &off_limits).map_or(Ok(()), |why| Err(Error::TargetRefused(why)))
}
