//! Who may be impersonated how, and as which role.

use crate::core::identity::Identity;
use crate::core::template;
use crate::pg::guc::{
    AnyList, Changes, Choice, List, Number, Setting, Switch, Text, TextCheck, UserText, UserTextCheck,
};
use crate::settings::read::{list, server_text};
use crate::settings::settings;
use pgrx::PostgresGucEnum;
use pgrx::guc::{GucFlags, GucSetting};
use std::ffi::CString;
use std::marker::PhantomData;

/// Whether a session is for one user only.
#[derive(Clone, Copy, PartialEq, Eq, PostgresGucEnum)]
pub enum SingleUser {
    #[name = c"off"]
    Off,
    /// For users impersonated by name, where the login itself is the credential.
    #[name = c"names"]
    Names,
    #[name = c"on"]
    On,
}

/// A template that gives each user a name of their own, as far as names can.
struct RoleName;

impl TextCheck for RoleName {
    fn check(text: &str) -> Result<(), String> {
        template::fault_of_role_name(text).map_or(Ok(()), |fault| Err(fault.into()))
    }
}

/// What can be an identity manager. It is read in the encoding of the database.
struct AnyLine;

impl UserTextCheck for AnyLine {
    fn fault(text: &str) -> Option<&'static str> {
        (!Identity::is_well_formed(text)).then_some("It must have 1 to 255 bytes, without control characters.")
    }
}

struct Template;

impl UserTextCheck for Template {
    fn fault(text: &str) -> Option<&'static str> {
        template::fault_of_userid(text)
    }
}

settings! {
    SINGLE_IMPERSONATION_USER: Choice<SingleUser> = Setting {
        name: c"bodata.single_impersonation_user",
        value: GucSetting::<SingleUser>::new(SingleUser::Names),
        kind: Choice(PhantomData),
        changes: Changes::Nothing,
        is_shown: true,
        what: c"Whether a session may impersonate one user only.",
        details: c"off: no; on: the first one; names: for users impersonated by name.",
    };

    /// Whether SET without LOCAL impersonates until the session ends it. Off by default: a pooled connection that an
    /// application forgets to reset would go to its next user as the last one.
    ALLOW_SESSION_IMPERSONATION: Switch = Setting {
        name: c"bodata.allow_session_impersonation",
        value: GucSetting::<bool>::new(false),
        kind: Switch,
        changes: Changes::Nothing,
        is_shown: true,
        what: c"Whether a session may impersonate beyond its transaction.",
        details: c"By SET without LOCAL, and in the options of a connection.",
    };

    /// Whether what `ALTER ROLE ... SET` says of the mapped role applies to its impersonated transactions. Off by default,
    /// because a role that several users share can be set by each of them.
    APPLY_ROLE_SETTINGS: Switch = Setting {
        name: c"bodata.apply_role_settings",
        value: GucSetting::<bool>::new(false),
        kind: Switch,
        changes: Changes::Nothing,
        is_shown: true,
        what: c"Whether the settings of the mapped role apply to its impersonated transactions.",
        details: c"Those of ALTER ROLE ... SET, as at a login of that role.",
    };

    /// Whether a user without an explicit mapping is mapped to the role of the same name (if that is a member of
    /// `immuta_mappable`).
    MAP_BY_USERNAME: Switch = Setting {
        name: c"bodata.map_by_username",
        value: GucSetting::<bool>::new(true),
        kind: Switch,
        changes: Changes::Mapping,
        is_shown: true,
        what: c"Whether users without an explicit mapping are mapped to the role of the same name.",
        details: c"Only roles that are members of immuta_mappable are reached.",
    };

    /// The identity managers for which that holds: whoever can register a user there chooses the name.
    MAP_BY_USERNAME_IAMIDS: List<AnyList> = Setting {
        name: c"bodata.map_by_username_iamids",
        value: GucSetting::<Option<CString>>::new(Some(c"bim")),
        kind: List(PhantomData),
        changes: Changes::Mapping,
        is_shown: true,
        what: c"Identity managers whose users are mapped by name.",
        details: c"A list of names, separated by commas.",
    };

    /// How long, in seconds, a request for a subscription waits for a decision; read in SQL.
    REQUEST_LAPSE_AFTER: Number = Setting {
        name: c"bodata.request_lapse_after",
        value: GucSetting::<i32>::new(30 * 24 * 3600),
        kind: Number { least: 0, most: 366 * 24 * 3600, unit: GucFlags::UNIT_S },
        changes: Changes::Nothing,
        is_shown: true,
        what: c"How long a request for a subscription waits for a decision.",
        details: c"Zero: for ever.",
    };

    /// Names of the roles that subscriptions make. A prefix keeps them apart from logins and roles of your own.
    ROLE_NAME_TEMPLATE: Text<RoleName> = Setting {
        name: c"bodata.role_name_template",
        value: GucSetting::<Option<CString>>::new(Some(c"user_{userid}")),
        kind: Text(PhantomData),
        changes: Changes::Nothing,
        is_shown: true,
        what: c"Names of the roles that are made for subscribers.",
        details: c"{userid} and {iamid} stand for the user's.",
    };

    /// Identity manager of a user who is presented by name, and what their user id is made of. Whoever presents the name may
    /// set these, too.
    IMPERSONATION_IAMID: UserText<AnyLine> = Setting {
        name: c"immuta.impersonation_iamid",
        value: GucSetting::<Option<CString>>::new(Some(c"bim")),
        kind: UserText(PhantomData),
        changes: Changes::Nothing,
        is_shown: true,
        what: c"Identity manager of the user who is named next.",
        details: c"To be set before immuta.impersonation_userid.",
    };

    IMPERSONATION_USERID_TEMPLATE: UserText<Template> = Setting {
        name: c"immuta.impersonation_userid_template",
        value: GucSetting::<Option<CString>>::new(Some(c"{userid}")),
        kind: UserText(PhantomData),
        changes: Changes::Nothing,
        is_shown: true,
        what: c"What the user id is made of that is looked up: {userid} stands for the name that is set.",
        details: c"To be set before immuta.impersonation_userid.",
    };
}

pub fn single_impersonation_user() -> SingleUser {
    SINGLE_IMPERSONATION_USER.get()
}

pub fn allow_session_impersonation() -> bool {
    ALLOW_SESSION_IMPERSONATION.get()
}

pub fn impersonation_iamid() -> String {
    server_text(&IMPERSONATION_IAMID)
}

pub fn impersonation_userid_template() -> String {
    server_text(&IMPERSONATION_USERID_TEMPLATE)
}

pub fn apply_role_settings() -> bool {
    APPLY_ROLE_SETTINGS.get()
}

/// Whether users of this identity manager may be mapped by their name.
pub fn maps_by_username(iamid: &str) -> bool {
    MAP_BY_USERNAME.get() && list(&MAP_BY_USERNAME_IAMIDS).iter().any(|id| id == iamid)
}
