//! What of the extension is in this database, and that it changes.

use crate::core::version::compare;
use crate::pg::catalog::control_roles::{
    self, ADMINISTRATORS, MAPPABLE, NAMERS, PRESENTERS, by_name, role_of, schema,
};
use crate::pg::catalog::extension::owner_and_version;
use crate::pg::catalog::lookup::{schema_of_relation, table_of_toast};
use crate::pg::catalog::tables;
use crate::pg::gate;
use crate::pg::sys::inject;
use foldhash::fast::RandomState;
use pgrx::{pg_guard, pg_sys};
use std::cell::{Cell, RefCell};
use std::cmp::Ordering;
use std::collections::HashMap;
use std::ffi::{CStr, c_int};
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Relaxed;

/// What tells whether a login is held, and nothing else does: that the extension is in this database, and its control
/// roles (OIDs).
#[derive(Clone, Copy)]
pub struct Presence {
    pub extension: u32,
    pub owner: u32,
    /// 0 if it was renamed.
    pub schema: u32,
    /// `bodata_impersonate_user`, `immuta_impersonation`, `immuta_admin`; 0 for one that was dropped.
    pub control_roles: [u32; 3],
    pub mappable: u32,
    /// `immuta_subscriber`.
    pub marker_of_subscribers: u32,
    /// What keeps the library from working with it, as far as that is known without its tables.
    fault: Option<Fault>,
}

/// Why the library does not work with what is installed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Something of this name is missing.
    Missing(&'static str),
    /// The SQL is that of an older version, or of a newer one, than the library of this session.
    Older,
    Newer,
}

/// What `CREATE EXTENSION immuta_ext` left in this database (OIDs), when nothing is missing.
#[derive(Clone, Copy)]
pub struct Installation {
    pub presence: Presence,
    pub user_account: u32,
    pub user_account_by_id: u32,
    pub user_account_by_identity: u32,
    pub token: u32,
    pub token_by_digest: u32,
    pub token_issuer: u32,
    pub token_issuer_by_issuer: u32,
    pub impersonation_rule: u32,
    pub subscription: u32,
    pub subscription_by_user: u32,
    pub subscriber: u32,
    pub subscriber_by_role: u32,
    pub access_class: u32,
    pub access_class_by_role: u32,
    pub project: u32,
    pub project_by_id: u32,
    pub project_member: u32,
    pub project_member_current: u32,
    pub api_key: u32,
    pub api_key_by_digest: u32,
    pub user_profile: u32,
    pub user_profile_by_user: u32,
    pub token_revocation: u32,
    pub token_revocation_by_key: u32,
    home: u32,
}

/// What there is for masks (OIDs). Every session looks at them, which is why it is apart from the rest.
#[derive(Clone, Copy)]
pub struct MaskTables {
    pub masks: u32,
    pub masks_by_column: u32,
    pub parameters: u32,
    pub parameters_by_id: u32,
}

impl Installation {
    fn of(presence: Presence, oids: &[u32; RELATIONS.len()]) -> Installation {
        Installation {
            presence,
            user_account: oids[0],
            user_account_by_id: oids[1],
            user_account_by_identity: oids[2],
            token: oids[3],
            token_by_digest: oids[4],
            token_issuer: oids[5],
            token_issuer_by_issuer: oids[6],
            impersonation_rule: oids[7],
            subscription: oids[8],
            subscription_by_user: oids[9],
            subscriber: oids[10],
            subscriber_by_role: oids[11],
            project: oids[12],
            project_by_id: oids[13],
            project_member: oids[14],
            project_member_current: oids[15],
            home: oids[16],
            api_key: oids[17],
            api_key_by_digest: oids[18],
            user_profile: oids[19],
            user_profile_by_user: oids[20],
            token_revocation: oids[21],
            token_revocation_by_key: oids[22],
            access_class: oids[23],
            access_class_by_role: oids[24],
        }
    }

    /// Whether the OIDs of roles in these tables hold in this cluster. Read where it is needed: reading a table leaves a
    /// predicate lock in a SERIALIZABLE transaction, which is no business of sessions that impersonate nobody.
    pub fn knows_roles(&self) -> bool {
        let generation = gate::generation();
        let (seen, known) = KNOWS_ROLES.get();
        if seen == generation {
            return known;
        }
        let known = tables::knows_roles(self.home);
        KNOWS_ROLES.set((generation, known));
        known
    }
}

impl Presence {
    /// Whether this is a table or a sequence of ours, or a partition, an index or the TOAST table of one: what only our
    /// functions, and superusers, read, write, lock and rebuild.
    pub fn owns(&self, relation: u32) -> bool {
        OWNED.with_borrow_mut(|(generation, known)| {
            let current = gate::relations();
            if *generation != current {
                known.clear();
                *generation = current;
            }
            *known.entry(relation).or_insert_with(|| {
                let table = table_of_toast(relation).unwrap_or(relation);
                // SAFETY: takes an OID by value, searches the system cache.
                let kind = unsafe { pg_sys::get_rel_relkind(table.into()) };
                schema_of_relation(table) == self.schema && matches!(kind as u8, b'r' | b'p' | b'S' | b'i' | b'I')
            })
        })
    }
}

thread_local! {
    static PRESENCE: Cell<(u64, Option<Presence>)> = const { Cell::new((0, None)) };
    static INSTALLED: Cell<(u64, Result<Installation, Option<Fault>>)> = const { Cell::new((0, Err(None))) };
    /// What [`Installation::knows_roles`] found.
    static KNOWS_ROLES: Cell<(u64, bool)> = const { Cell::new((0, false)) };
    /// What [`Presence::owns`] found.
    static OWNED: RefCell<(u64, HashMap<u32, bool, RandomState>)> = RefCell::default();
}

const RELATIONS: [&CStr; 29] = [
    c"user_account",
    c"user_account_id_key",
    c"user_account_pkey",
    c"token",
    c"token_pkey",
    c"token_issuer",
    c"token_issuer_pkey",
    c"impersonation_rule",
    c"subscription",
    c"subscription_pkey",
    c"subscriber",
    c"subscriber_role_key",
    c"project",
    c"project_pkey",
    c"project_member",
    c"project_member_current_key",
    c"home",
    c"api_key",
    c"api_key_pkey",
    c"user_profile",
    c"user_profile_pkey",
    c"token_revocation",
    c"token_revocation_pkey",
    c"access_class",
    c"access_class_role_key",
    c"masks",
    c"masks_pkey",
    c"mask_parameters",
    c"mask_parameters_pkey",
];

/// The relations of [`RELATIONS`], whose changes count; the first is 0 while not all of them are known.
static WATCHED: [AtomicU32; RELATIONS.len()] = [const { AtomicU32::new(0) }; RELATIONS.len()];

/// Whether the extension is in this database, complete or not.
pub fn presence() -> Option<Presence> {
    let generation = gate::generation();
    let (seen, presence) = PRESENCE.get();
    if seen == generation {
        return presence;
    }
    let presence = find_presence();
    PRESENCE.set((generation, presence));
    presence
}

/// The installation in this database, if there is one and nothing is missing.
pub fn installation() -> Option<Installation> {
    installed().ok()
}

/// What keeps the library from working with what is installed.
pub fn fault() -> Option<Fault> {
    installed().err().flatten()
}

fn installed() -> Result<Installation, Option<Fault>> {
    let generation = gate::generation();
    let (seen, installed) = INSTALLED.get();
    if seen == generation {
        return installed;
    }
    let presence = presence();
    let relations = presence.map(|found| find_relations(found.schema));
    for (at, watched) in WATCHED.iter().enumerate() {
        watched.store(relations.and_then(Result::ok).map_or(0, |oids| oids[at]), Relaxed);
    }
    let installed = match (presence, relations) {
        (Some(Presence { fault: Some(fault), .. }), _) => Err(Some(fault)),
        (_, Some(Err(missing))) => Err(Some(Fault::Missing(missing))),
        (Some(presence), Some(Ok(oids))) => Ok(Installation::of(presence, &oids)),
        _ => Err(None),
    };
    INSTALLED.set((generation, installed));
    installed
}

/// The relations of [`RELATIONS`], in their order; else the name of the first that is missing.
fn find_relations(schema: u32) -> Result<[u32; RELATIONS.len()], &'static str> {
    if schema == 0 {
        return Err("immuta");
    }
    let mut found = [0; RELATIONS.len()];
    for (oid, name) in found.iter_mut().zip(RELATIONS) {
        *oid = relation_by_name(schema, name);
        if *oid == 0 {
            return Err(name.to_str().unwrap_or_default());
        }
    }
    Ok(found)
}

/// The tables and indexes for masks, whatever else may be missing, if they are of this version.
pub fn mask_tables() -> Option<MaskTables> {
    let schema = presence().filter(|found| found.fault.is_none())?.schema;
    let relation = |name| Some(relation_by_name(schema, name)).filter(|&oid| oid != 0);
    Some(MaskTables {
        masks: relation(c"masks")?,
        masks_by_column: relation(c"masks_pkey")?,
        parameters: relation(c"mask_parameters")?,
        parameters_by_id: relation(c"mask_parameters_pkey")?,
    })
}

/// 0 if there is none.
fn relation_by_name(schema: u32, name: &CStr) -> u32 {
    // SAFETY: a NUL-terminated name and an OID by value.
    unsafe { pg_sys::get_relname_relid(name.as_ptr(), schema.into()) }.to_u32()
}

/// Whether the extension is in this database.
pub fn is_here() -> bool {
    extension() != 0
}

/// 0 if it is not in this database.
pub(super) fn extension() -> u32 {
    // SAFETY: a NUL-terminated name; missing_ok.
    unsafe { pg_sys::get_extension_oid(c"immuta_ext".as_ptr(), true) }.to_u32()
}

fn find_presence() -> Option<Presence> {
    let extension = extension();
    let (owner, version) = (extension != 0).then(|| owner_and_version(extension)).flatten()?;
    let (schema, internal) = (schema(c"immuta"), schema(c"immuta_internal"));
    Some(Presence {
        extension,
        owner,
        schema,
        control_roles: [role_of(PRESENTERS), role_of(NAMERS), role_of(ADMINISTRATORS)],
        mappable: role_of(MAPPABLE),
        marker_of_subscribers: by_name(c"immuta_subscriber"),
        fault: match compare(&version, inject::version()) {
            Ordering::Less => Some(Fault::Older),
            Ordering::Greater => Some(Fault::Newer),
            Ordering::Equal => (internal == 0).then_some(Fault::Missing("immuta_internal")),
        },
    })
}

/// Asks to be told of every change that may matter. Called once, from `_PG_init`.
pub fn watch() {
    use pg_sys::SysCacheIdentifier::*;
    // SAFETY: the callbacks stay valid for the life of the process and only count.
    unsafe {
        for cache in [AUTHOID, AUTHMEMMEMROLE, NAMESPACEOID] {
            pg_sys::CacheRegisterSyscacheCallback(cache as c_int, Some(catalog_changed), 0.into());
        }
        pg_sys::CacheRegisterRelcacheCallback(Some(relation_changed), 0.into());
    }
    control_roles::watch();
}

#[pg_guard]
unsafe extern "C-unwind" fn catalog_changed(_arg: pg_sys::Datum, _cache: c_int, _hash: u32) {
    gate::next_generation();
    gate::next_relations();
}

#[pg_guard]
unsafe extern "C-unwind" fn relation_changed(_arg: pg_sys::Datum, relation: pg_sys::Oid) {
    gate::next_relations();
    let relation = relation.to_u32();
    // Invalid: all relations. Not installed, or not all of it so far: any relation may be ours.
    if relation == 0
        || WATCHED[0].load(Relaxed) == 0
        || WATCHED.iter().any(|watched| watched.load(Relaxed) == relation)
    {
        gate::next_generation();
    }
}

/// Takes in what other sessions have committed so far, which a transaction otherwise does where it takes a lock.
pub fn take_in_changes() {
    // SAFETY: calls the invalidation callbacks; in a transaction only, as look-ups are.
    unsafe { pg_sys::AcceptInvalidationMessages() }
}

/// Makes every backend look at our tables again, once this transaction has committed.
pub fn announce_change() {
    if let Some(found) = installation() {
        // SAFETY: takes an OID by value.
        unsafe { pg_sys::CacheInvalidateRelcacheByRelid(found.user_account.into()) };
    }
}
