//! From a user to the role that is impersonated.

use crate::core::identity::{Authority, Identity, Mapping, Subject};
use crate::core::rights::rules;
use crate::core::rights::target::{self, OffLimits};
use crate::error::Error;
use crate::pg::catalog::tables::{self, UserAccount};
use crate::pg::catalog::{self, Installation, Presence, roles};
use crate::pg::sys::client;
use crate::settings;

/// The user whom a provider describes.
pub fn identity(installed: &Installation, subject: &Subject) -> Result<Identity, Error> {
    let iamid = match &subject.authority {
        Authority::Iam(iamid) => iamid.clone(),
        Authority::Issuer(issuer) => tables::iamid_of_issuer(installed, issuer).ok_or(Error::UnknownIssuer)?,
    };
    Ok(Identity { iamid, userid: subject.userid.clone() })
}

/// Refuses what the impersonation rules do not allow.
pub fn check_rules(installed: &Installation, identity: &Identity, impersonator: u32) -> Result<(), Error> {
    let rules = tables::impersonation_rules(installed);
    let name = roles::name(impersonator).ok_or(Error::Inconsistent)?;
    if rules::allow(&rules, &name, identity, client::address()) { Ok(()) } else { Err(Error::RuleDenies) }
}

/// Whether a row of ours says that this user is disabled.
pub fn is_disabled(installed: &Installation, identity: &Identity) -> bool {
    tables::user_by_identity(installed, identity).is_some_and(|account| account.is_disabled)
}

/// The role this user is impersonated as, checked against everything that must not be. A disabled user is none. Roles
/// are looked up at each use: nothing is remembered beyond the catalog generation it was found in.
pub fn mapped_role(
    installed: &Installation,
    identity: &Identity,
    role_name: Option<&str>,
    impersonator: u32,
) -> Result<u32, Error> {
    let account = tables::user_by_identity(installed, identity);
    if account.as_ref().is_some_and(|account| account.is_disabled) {
        return Err(Error::TokenInvalid);
    }
    let mapped = own_role(installed, identity, account.as_ref(), role_name).ok_or(Error::NotMapped)?;
    check_target(installed, mapped, impersonator)?;
    // In a project the user is its role: who is nobody outside is nobody in it.
    let Some(role) = account.as_ref().and_then(|account| tables::role_of_current_project(installed, account.id))
    else {
        return Ok(mapped);
    };
    // What its members have was found without their provider.
    if own_role(installed, identity, account.as_ref(), None) != Some(mapped) {
        return Err(Error::OtherRoleInProject);
    }
    check_target(installed, role, impersonator)?;
    Ok(role)
}

/// The role of a user outside projects, as far as it is known without a provider, whether or not it may be impersonated.
pub fn role_without_provider(installed: &Installation, identity: &Identity) -> Option<u32> {
    own_role(installed, identity, tables::user_by_identity(installed, identity).as_ref(), None)
}

/// From a user to a role: the one rule, which SQL asks, too. A row of ours decides first, also over a user who has none
/// of our tokens.
fn own_role(
    installed: &Installation,
    identity: &Identity,
    account: Option<&UserAccount>,
    role_name: Option<&str>,
) -> Option<u32> {
    match account.map_or(&Mapping::ByName, |account| &account.mapping) {
        &Mapping::Explicit(role) => {
            let stored_name = account.and_then(|account| account.role_name.as_ref());
            Some(role).filter(|&role| installed.knows_roles() || roles::name(role).as_ref() == stored_name)
        }
        // A role that carries somebody's subscriptions is nobody else's.
        Mapping::ByName => by_name(installed, identity, role_name).filter(|&role| {
            let owner = carries_for(installed, role);
            owner.is_none() || owner == account.map(|account| account.id)
        }),
        Mapping::Unmapped => None,
    }
}

/// The user whose subscriptions a role carries. Where stored OIDs do not hold, stored names do.
fn carries_for(installed: &Installation, role: u32) -> Option<i64> {
    if installed.knows_roles() {
        return tables::subscriber_of_role(installed, role);
    }
    tables::subscriber_of_role_name(installed, &roles::name(role)?)
}

/// Whether a role is one of this extension's, which many users are members of.
pub fn is_shared(installed: &Installation, role: u32) -> bool {
    let Presence { control_roles, mappable, marker_of_subscribers, .. } = installed.presence;
    [mappable, marker_of_subscribers].contains(&role)
        || control_roles.contains(&role)
        || if installed.knows_roles() {
            tables::is_access_role(installed, role)
        } else {
            roles::name(role).is_some_and(|name| tables::is_access_role_name(installed, &name))
        }
}

/// A name is not a credential: it reaches only roles that are marked for it. The role that the provider names counts
/// before the user's own name, also if there is no such role.
fn by_name(installed: &Installation, identity: &Identity, role_name: Option<&str>) -> Option<u32> {
    let name = match role_name {
        Some(name) => name,
        None if settings::maps_by_username(&identity.iamid) => &identity.userid,
        None => return None,
    };
    let found = roles::by_name(name)?;
    roles::is_direct_member(found, installed.presence.mappable).then_some(found)
}

/// Refuses roles that do not exist or carry privileges beyond those on data.
pub fn check_target(installed: &Installation, mapped: u32, impersonator: u32) -> Result<(), Error> {
    let roles = roles::with_memberships(mapped);
    if roles.is_empty() {
        return Err(Error::NotMapped);
    }
    let off_limits = OffLimits {
        impersonator,
        extension_owner: installed.presence.owner,
        control_roles: installed.presence.control_roles,
        markers: [installed.presence.mappable, installed.presence.marker_of_subscribers],
    };
    target::refusal(&roles, &off_limits).map_or(Ok(()), |why| Err(Error::TargetRefused(why)))
}

/// The role as which a user would be impersonated, whoever impersonates them.
pub fn role_of_user(identity: &Identity) -> Result<u32, Error> {
    let installed = catalog::installation().ok_or(Error::NoExtension)?;
    mapped_role(&installed, identity, None, 0).map_err(|error| match error {
        Error::TokenInvalid => Error::UserDisabled,
        other => other,
    })
}
