//! From a user to a role: the one decision. A row of ours decides first, also over a user who has none of our tokens.

use crate::core::identity::Mapping;

/// What there is to know about one user. Asked only as far as it decides.
pub trait Facts {
    /// Says why a user has no role that may be impersonated.
    type Error: From<Denial>;

    fn account(&self) -> Option<&Account>;
    /// Whether the mapped role is still the one that was stored.
    fn holds(&self, role: u32) -> bool;
    /// The marked role of that name: one that the provider gave, else the user's own.
    fn by_name(&self, name: Option<&str>) -> Option<u32>;
    /// The user whose subscriptions a role carries.
    fn carries_for(&self, role: u32) -> Option<i64>;
    /// The role of the user's current project.
    fn project(&self, user: i64) -> Option<u32>;
    /// Refuses roles that must not be impersonated.
    fn check(&self, role: u32) -> Result<(), Self::Error>;
}

/// What the row of a user says.
pub struct Account {
    pub id: i64,
    pub mapping: Mapping,
    pub is_disabled: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denial {
    Disabled,
    NotMapped,
    /// What the members of a project have was found without their provider, which names another role.
    OtherRoleInProject,
}

/// The role as which a user is impersonated. In a project the user is its role: who is nobody outside is nobody in it.
pub fn decide<F: Facts>(facts: &F, named: Option<&str>) -> Result<u32, F::Error> {
    if facts.account().is_some_and(|account| account.is_disabled) {
        return Err(Denial::Disabled.into());
    }
    let own = own_role(facts, named).ok_or(Denial::NotMapped)?;
    facts.check(own)?;
    let Some(role) = facts.account().and_then(|account| facts.project(account.id)) else { return Ok(own) };
    if own_role(facts, None) != Some(own) {
        return Err(Denial::OtherRoleInProject.into());
    }
    facts.check(role)?;
    Ok(role)
}

/// The role outside projects, whether or not it may be impersonated.
pub fn own_role(facts: &impl Facts, named: Option<&str>) -> Option<u32> {
    let account = facts.account();
    match account.map_or(&Mapping::ByName, |account| &account.mapping) {
        &Mapping::Explicit(role) => Some(role).filter(|&role| facts.holds(role)),
        // A role that carries somebody's subscriptions is nobody else's.
        Mapping::ByName => facts.by_name(named).filter(|&role| {
            let owner = facts.carries_for(role);
            owner.is_none() || owner == account.map(|account| account.id)
        }),
        Mapping::Unmapped => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: u32 = 1;
    const GIVEN: u32 = 2;
    const PROJECT: u32 = 3;
    const USER: i64 = 7;

    #[derive(Debug, PartialEq)]
    enum Refused {
        Denied(Denial),
        Target(u32),
    }

    impl From<Denial> for Refused {
        fn from(denial: Denial) -> Refused {
            Refused::Denied(denial)
        }
    }

    struct World {
        account: Option<Account>,
        holds: bool,
        carried: Option<(u32, i64)>,
        project: Option<u32>,
        off_limits: Option<u32>,
    }

    impl Facts for World {
        type Error = Refused;

        fn account(&self) -> Option<&Account> {
            self.account.as_ref()
        }
        fn holds(&self, _: u32) -> bool {
            self.holds
        }
        fn by_name(&self, name: Option<&str>) -> Option<u32> {
            match name {
                None => Some(OWN),
                Some("given") => Some(GIVEN),
                Some(_) => None,
            }
        }
        fn carries_for(&self, role: u32) -> Option<i64> {
            self.carried.filter(|&(carrier, _)| carrier == role).map(|(_, user)| user)
        }
        fn project(&self, user: i64) -> Option<u32> {
            self.project.filter(|_| user == USER)
        }
        fn check(&self, role: u32) -> Result<(), Refused> {
            if self.off_limits == Some(role) { Err(Refused::Target(role)) } else { Ok(()) }
        }
    }

    fn world(mapping: Option<Mapping>) -> World {
        let account = mapping.map(|mapping| Account { id: USER, mapping, is_disabled: false });
        World { account, holds: true, carried: None, project: None, off_limits: None }
    }

    fn denied(denial: Denial) -> Result<u32, Refused> {
        Err(Refused::Denied(denial))
    }

    #[test]
    fn a_row_decides_before_names() {
        assert_eq!(decide(&world(None), None), Ok(OWN));
        assert_eq!(decide(&world(None), Some("given")), Ok(GIVEN));
        assert_eq!(decide(&world(None), Some("nobody")), denied(Denial::NotMapped));
        assert_eq!(decide(&world(Some(Mapping::Explicit(9))), Some("given")), Ok(9));
        assert_eq!(decide(&world(Some(Mapping::Unmapped)), Some("given")), denied(Denial::NotMapped));
        let gone = World { holds: false, ..world(Some(Mapping::Explicit(9))) };
        assert_eq!(decide(&gone, None), denied(Denial::NotMapped));
    }

    #[test]
    fn a_role_with_subscriptions_is_one_users() {
        for (user, expected) in [(USER, Ok(OWN)), (8, denied(Denial::NotMapped))] {
            let carried = World { carried: Some((OWN, user)), ..world(Some(Mapping::ByName)) };
            assert_eq!(decide(&carried, None), expected);
        }
        let stranger = World { carried: Some((OWN, USER)), ..world(None) };
        assert_eq!(decide(&stranger, None), denied(Denial::NotMapped));
    }

    #[test]
    fn a_disabled_user_and_a_role_off_limits_are_refused() {
        let disabled = Account { id: USER, mapping: Mapping::ByName, is_disabled: true };
        assert_eq!(decide(&World { account: Some(disabled), ..world(None) }, None), denied(Denial::Disabled));
        let off_limits = World { off_limits: Some(OWN), ..world(None) };
        assert_eq!(decide(&off_limits, None), Err(Refused::Target(OWN)));
    }

    #[test]
    fn in_a_project_users_are_its_role_if_they_are_somebody_outside() {
        let member = |mapping| World { project: Some(PROJECT), ..world(Some(mapping)) };
        assert_eq!(decide(&member(Mapping::ByName), None), Ok(PROJECT));
        assert_eq!(decide(&member(Mapping::ByName), Some("given")), denied(Denial::OtherRoleInProject));
        assert_eq!(decide(&member(Mapping::Explicit(9)), Some("given")), Ok(PROJECT));
        assert_eq!(decide(&member(Mapping::Unmapped), None), denied(Denial::NotMapped));
        for off_limits in [OWN, PROJECT] {
            let refused = World { off_limits: Some(off_limits), ..member(Mapping::ByName) };
            assert_eq!(decide(&refused, None), Err(Refused::Target(off_limits)));
        }
    }
}
