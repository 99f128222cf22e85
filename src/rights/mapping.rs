//! From a user to the role that is impersonated.

use crate::core::identity::{Authority, Identity, Subject};
use crate::core::rights::decision::{self, Account, Facts};
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
pub fn check_rules(
    installed: &Installation,
    identity: &Identity,
    actor: &str,
    impersonator: u32,
) -> Result<(), Error> {
    let rules = tables::impersonation_rules(installed);
    let name = roles::name(impersonator).ok_or(Error::Inconsistent)?;
    let is_allowed = rules::allow(&rules, &name, identity, actor, client::address());
    if is_allowed { Ok(()) } else { Err(Error::RuleDenies) }
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
    decision::decide(&KnownUser::of(installed, identity, impersonator), role_name)
}

/// The role of a user outside projects, as far as it is known without a provider, whether or not it may be impersonated.
pub fn role_without_provider(installed: &Installation, identity: &Identity) -> Option<u32> {
    decision::own_role(&KnownUser::of(installed, identity, 0), None)
}

/// What this database knows of a user.
struct KnownUser<'a> {
    installed: &'a Installation,
    identity: &'a Identity,
    impersonator: u32,
    account: Option<Account>,
    /// The name that the mapped role had when it was stored.
    stored_name: Option<String>,
}

impl<'a> KnownUser<'a> {
    fn of(installed: &'a Installation, identity: &'a Identity, impersonator: u32) -> KnownUser<'a> {
        let (account, stored_name) = match tables::user_by_identity(installed, identity) {
            Some(UserAccount { id, mapping, is_disabled, role_name, .. }) => {
                (Some(Account { id, mapping, is_disabled }), role_name)
            }
            None => (None, None),
        };
        KnownUser { installed, identity, impersonator, account, stored_name }
    }
}

impl Facts for KnownUser<'_> {
    type Error = Error;

    fn account(&self) -> Option<&Account> {
        self.account.as_ref()
    }

    fn holds(&self, role: u32) -> bool {
        self.installed.knows_roles() || roles::name(role) == self.stored_name
    }

    /// A name is not a credential: it reaches only roles that are marked for it. The role that the provider names counts
    /// before the user's own name, also if there is no such role.
    fn by_name(&self, name: Option<&str>) -> Option<u32> {
        let name = match name {
            Some(name) => name,
            None if settings::maps_by_username(&self.identity.iamid) => &self.identity.userid,
            None => return None,
        };
        let found = roles::by_name(name)?;
        roles::is_direct_member(found, self.installed.presence.mappable).then_some(found)
    }

    /// Where stored OIDs do not hold, stored names do.
    fn carries_for(&self, role: u32) -> Option<i64> {
        if self.installed.knows_roles() {
            return tables::subscriber_of_role(self.installed, role);
        }
        tables::subscriber_of_role_name(self.installed, &roles::name(role)?)
    }

    fn project(&self, user: i64) -> Option<u32> {
        tables::role_of_current_project(self.installed, user)
    }

    fn check(&self, role: u32) -> Result<(), Error> {
        check_target(self.installed, role, self.impersonator)
    }
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
