//! Reading the extension's own tables without touching the transaction's snapshot.
//!
//! A catalog snapshot sees what is committed now, takes no transaction snapshot (so that SET TRANSACTION ISOLATION
//! LEVEL still works afterwards) and no transaction id, and works on a hot standby. Column numbers follow
//! `sql/identity/tables.sql` and `sql/access/tables.sql`; columns are only ever appended.

use crate::core::identity::{Identity, Mapping};
use crate::core::provider::jwt::revocation::RevocationKey;
use crate::core::rights::rules::{Network, Rule};
use crate::core::time::Timestamp;
use crate::core::token::Digest;
use crate::pg::catalog::{Installation, MaskTables};
use crate::pg::sys::text;
use foldhash::fast::RandomState;
use pgrx::{FromDatum, IntoDatum, pg_sys};
use std::collections::HashSet;
use std::ffi::{CStr, CString, c_int};

/// A row of `immuta.token`.
pub struct Token {
    pub id: i64,
    pub user: i64,
    pub last_used: Timestamp,
}

/// A row of `immuta.user_account`.
pub struct UserAccount {
    pub id: i64,
    pub identity: Identity,
    pub mapping: Mapping,
    pub is_disabled: bool,
    pub failed_logins: i32,
    pub last_failed_login: Option<Timestamp>,
    /// The name that the mapped role had when it was stored.
    pub role_name: Option<String>,
}

/// Whether the OIDs of roles in our tables hold: here where they were written, and where the database came as a whole.
/// A dump brings a second row; see `sql/operations/home.sql`.
pub fn knows_roles(home: u32) -> bool {
    let mut rows = 0;
    visit(home, 0, &[], |_| {
        rows += 1;
        true
    });
    rows == 1
}

pub fn token_by_digest(installed: &Installation, digest: &Digest) -> Option<Token> {
    let keys = [(1, pg_sys::F_BYTEAEQ, digest.0.as_slice().into_datum()?)];
    scan(installed.token, installed.token_by_digest, &keys, |row| {
        Some(Token {
            id: row.value::<i64>(2)?,
            user: row.value::<i64>(3)?,
            last_used: Timestamp(row.value::<i64>(5)?),
        })
    })
}

pub fn user_by_id(installed: &Installation, id: i64) -> Option<UserAccount> {
    let keys = [(1, pg_sys::F_INT8EQ, id.into_datum()?)];
    scan(installed.user_account, installed.user_account_by_id, &keys, user_account)
}

pub fn user_by_identity(installed: &Installation, identity: &Identity) -> Option<UserAccount> {
    let keys =
        [(2, pg_sys::F_TEXTEQ, text_key(&identity.iamid)?), (3, pg_sys::F_TEXTEQ, text_key(&identity.userid)?)];
    scan(installed.user_account, installed.user_account_by_identity, &keys, user_account)
}

pub fn password_hash(installed: &Installation, user: i64) -> Option<String> {
    let keys = [(1, pg_sys::F_INT8EQ, user.into_datum()?)];
    scan(installed.user_account, installed.user_account_by_id, &keys, |row| row.text(8))
}

/// The ids of an API key and of its user.
pub fn api_key(installed: &Installation, digest: &[u8]) -> Option<(i64, i64)> {
    let keys = [(1, pg_sys::F_BYTEAEQ, digest.into_datum()?)];
    let ids = |row: &Row| Some((row.value::<i64>(2)?, row.value::<i64>(3)?));
    scan(installed.api_key, installed.api_key_by_digest, &keys, ids)
}

/// Groups and attributes of a user, as PostgreSQL writes an array and a jsonb.
pub fn profile(installed: &Installation, user: i64) -> Option<(String, String)> {
    let keys = [(1, pg_sys::F_INT8EQ, user.into_datum()?)];
    let texts = |row: &Row| Some((row.output(2, pg_sys::F_ARRAY_OUT)?, row.output(3, pg_sys::F_JSONB_OUT)?));
    scan(installed.user_profile, installed.user_profile_by_user, &keys, texts)
}

fn user_account(row: &Row) -> Option<UserAccount> {
    let mapping = match row.text(4)?.as_str() {
        "username" => Mapping::ByName,
        "explicit" => Mapping::Explicit(row.value::<pg_sys::Oid>(5)?.to_u32()),
        _ => Mapping::Unmapped,
    };
    Some(UserAccount {
        id: row.value::<i64>(1)?,
        identity: Identity { iamid: row.text(2)?, userid: row.text(3)? },
        mapping,
        is_disabled: row.value::<bool>(6)?,
        failed_logins: row.value::<i32>(9)?,
        last_failed_login: row.value::<i64>(10).map(Timestamp),
        role_name: row.output(13, pg_sys::F_NAMEOUT),
    })
}

/// The user whose subscriptions this role carries, by a row of `immuta.subscriber`.
pub fn subscriber_of_role(installed: &Installation, role: u32) -> Option<i64> {
    let keys = [(2, pg_sys::F_OIDEQ, pg_sys::Oid::from(role).into_datum()?)];
    scan(installed.subscriber, installed.subscriber_by_role, &keys, |row| row.value::<i64>(1))
}

/// The same by the stored name of the role, where OIDs may mean something else.
pub fn subscriber_of_role_name(installed: &Installation, name: &str) -> Option<i64> {
    let mut user = None;
    visit(installed.subscriber, 0, &[], |row| {
        if row.output(3, pg_sys::F_NAMEOUT).as_deref() == Some(name) {
            user = row.value::<i64>(1);
        }
        user.is_none()
    });
    user
}

/// Whether a role is one of those that hold the grants of data sources.
pub fn is_access_role(installed: &Installation, role: u32) -> bool {
    let oid = pg_sys::Oid::from(role).into_datum();
    let is_known = |oid| {
        let keys = [(5, pg_sys::F_OIDEQ, oid)];
        scan(installed.access_class, installed.access_class_by_role, &keys, |_| Some(())).is_some()
    };
    oid.is_some_and(is_known)
}

/// The same by its name, where OIDs may mean something else.
pub fn is_access_role_name(installed: &Installation, name: &str) -> bool {
    let mut is_known = false;
    visit(installed.access_class, 0, &[], |row| {
        is_known = row.output(6, pg_sys::F_NAMEOUT).as_deref() == Some(name);
        !is_known
    });
    is_known
}

/// When the first of the user's approved subscriptions ends.
pub fn next_end_of_subscription(installed: &Installation, user: i64) -> Option<Timestamp> {
    let keys = [(1, pg_sys::F_INT8EQ, user.into_datum()?)];
    let mut next: Option<Timestamp> = None;
    visit(installed.subscription, installed.subscription_by_user, &keys, |row| {
        if let Some(end) = row.value::<i64>(5).map(Timestamp)
            && row.text(4).as_deref() == Some("approved")
        {
            next = Some(next.map_or(end, |next| next.min(end)));
        }
        true
    });
    next
}

/// The identity manager that a row of `immuta.token_issuer` gives to this issuer.
pub fn iamid_of_issuer(installed: &Installation, issuer: &str) -> Option<String> {
    let keys = [(1, pg_sys::F_TEXTEQ, text_key(issuer)?)];
    scan(installed.token_issuer, installed.token_issuer_by_issuer, &keys, |row| row.text(2))
}

/// An issuer: its identity manager, and what is accepted of it instead of what the settings say, as PostgreSQL writes a
/// jsonb.
pub fn issuer(installed: &Installation, issuer: &str) -> Option<(String, String)> {
    let keys = [(1, pg_sys::F_TEXTEQ, text_key(issuer)?)];
    scan(installed.token_issuer, installed.token_issuer_by_issuer, &keys, |row| {
        Some((row.text(2)?, row.output(3, pg_sys::F_JSONB_OUT)?))
    })
}

/// All issuers.
pub fn issuers(installed: &Installation) -> Vec<String> {
    let mut issuers = Vec::new();
    visit(installed.token_issuer, 0, &[], |row| {
        issuers.extend(row.text(1));
        true
    });
    issuers
}

/// When something was revoked, by its key in `immuta.token_revocation`.
pub fn revoked_at(installed: &Installation, key: &RevocationKey) -> Option<Timestamp> {
    let keys = [(1, pg_sys::F_BYTEAEQ, key.as_slice().into_datum()?)];
    scan(installed.token_revocation, installed.token_revocation_by_key, &keys, |row| {
        row.value::<i64>(2).map(Timestamp)
    })
}

/// The rules of `immuta.impersonation_rule`, in their order. A network that cannot be read matches nobody.
pub fn impersonation_rules(installed: &Installation) -> Vec<Rule> {
    let mut rules = Vec::new();
    visit(installed.impersonation_rule, 0, &[], |row| {
        rules.extend(impersonation_rule(row));
        true
    });
    rules.sort_by_key(|rule| rule.id);
    rules
}

fn impersonation_rule(row: &Row) -> Option<Rule> {
    let networks = row
        .output(6, pg_sys::F_ARRAY_OUT)
        .map(|array| array.trim_matches(['{', '}']).split(',').filter_map(Network::parse).collect());
    Some(Rule {
        id: row.value::<i32>(1)?,
        impersonator: row.text(2)?,
        users: row.text(3)?,
        allow: row.value::<bool>(4)?,
        iamid: row.text(5)?,
        networks,
        actors: row.text(7)?,
    })
}

/// The role of the project that is the current one of this user (an id of `immuta.user_account`); 0 for one that is gone.
pub fn role_of_current_project(installed: &Installation, user: i64) -> Option<u32> {
    let keys = [(2, pg_sys::F_INT8EQ, user.into_datum()?)];
    let index = installed.project_member_current;
    let project = scan(installed.project_member, index, &keys, |row| row.value::<i32>(1))?;
    let keys = [(1, pg_sys::F_INT4EQ, project.into_datum()?)];
    let role = |row: &Row| row.value::<pg_sys::Oid>(3).map(|role| role.to_u32());
    Some(scan(installed.project, installed.project_by_id, &keys, role).unwrap_or(0))
}

// Masks are looked for in every session: a catalog snapshot would leave predicate locks in SERIALIZABLE transactions. The
// one that sees what is committed right now leaves none. Should it miss what is being changed just then, a column is
// refused until the change is announced.

/// The tables that have masks.
pub fn masked_tables(tables: &MaskTables) -> HashSet<u32, RandomState> {
    let mut masked = HashSet::default();
    visit_now(tables.masks, 0, &[], |row| {
        masked.extend(row.value::<pg_sys::Oid>(1).map(|table| table.to_u32()));
        true
    });
    masked
}

/// The masks of a table: numbers of columns, and expressions in the database encoding.
pub fn masks(tables: &MaskTables, table: u32) -> Vec<(i16, CString)> {
    let mut masks = Vec::new();
    let Some(key) = pg_sys::Oid::from(table).into_datum() else { return masks };
    visit_now(tables.masks, tables.masks_by_column, &[(1, pg_sys::F_OIDEQ, key)], |row| {
        masks.extend(row.value::<i16>(2).zip(row.bytes(3).and_then(|text| CString::new(text).ok())));
        true
    });
    masks
}

/// The parameters of a mask, in the database encoding: salt, pattern, replacement, flags.
pub fn mask_parameters(tables: &MaskTables, id: i32) -> Option<[Option<Vec<u8>>; 4]> {
    let mut parameters = None;
    let keys = [(1, pg_sys::F_INT4EQ, id.into_datum()?)];
    visit_now(tables.parameters, tables.parameters_by_id, &keys, |row| {
        parameters = Some([2, 3, 4, 5].map(|column| row.bytes(column)));
        false
    });
    parameters
}

fn text_key(text: &str) -> Option<pg_sys::Datum> {
    let text = text::to_server(text)?;
    // SAFETY: a NUL-terminated string, which is copied.
    Some(unsafe { pg_sys::cstring_to_text(text.as_ptr()) }.into())
}

/// A tuple under the scan.
struct Row {
    tuple: pg_sys::HeapTuple,
    descriptor: pg_sys::TupleDesc,
}

impl Row {
    fn datum(&self, column: i32) -> Option<pg_sys::Datum> {
        let mut is_null = false;
        // SAFETY: the tuple and its descriptor are those of the open scan.
        let datum = unsafe { pg_sys::heap_getattr(self.tuple, column, self.descriptor, &mut is_null) };
        (!is_null).then_some(datum)
    }

    /// A column of fixed size, which is copied.
    fn value<T: FromDatum>(&self, column: i32) -> Option<T> {
        // SAFETY: the type asked for is that of the column in sql/identity/tables.sql.
        unsafe { T::from_datum(self.datum(column)?, false) }
    }

    /// A column in the text form that this output function gives it.
    fn output(&self, column: i32, function: u32) -> Option<String> {
        let datum = self.datum(column)?;
        // SAFETY: the function is the output function of the column's type in sql/identity/tables.sql.
        let text = unsafe { CStr::from_ptr(pg_sys::OidOutputFunctionCall(function.into(), datum)) };
        Some(text::from_server(text.to_bytes()))
    }

    /// A column of text or bytes, as it is.
    fn bytes(&self, column: i32) -> Option<Vec<u8>> {
        let datum = self.datum(column)?;
        // SAFETY: such a datum; pg_detoast_datum_packed() returns it with all its bytes in place.
        Some(unsafe {
            let value = pg_sys::pg_detoast_datum_packed(datum.cast_mut_ptr());
            pgrx::varlena_to_byte_slice(value).to_vec()
        })
    }

    /// A text column, as UTF-8.
    fn text(&self, column: i32) -> Option<String> {
        Some(text::from_server(&self.bytes(column)?))
    }
}

/// The first row whose indexed columns equal the keys: `(column, its equality function, value)`.
fn scan<T>(
    table: u32,
    index: u32,
    keys: &[(i16, u32, pg_sys::Datum)],
    read: impl FnOnce(&Row) -> Option<T>,
) -> Option<T> {
    let mut read = Some(read);
    let mut found = None;
    visit(table, index, keys, |row| {
        found = read.take().and_then(|read| read(row));
        false
    });
    found
}

/// Shows rows to `look` until it has seen enough: by the index, or all if that is 0.
fn visit(table: u32, index: u32, keys: &[(i16, u32, pg_sys::Datum)], look: impl FnMut(&Row) -> bool) {
    visit_in(std::ptr::null_mut(), table, index, keys, look);
}

/// The same, as it is right now.
fn visit_now(table: u32, index: u32, keys: &[(i16, u32, pg_sys::Datum)], look: impl FnMut(&Row) -> bool) {
    visit_in(&raw mut pg_sys::SnapshotSelfData, table, index, keys, look);
}

/// In a snapshot; null stands for a catalog snapshot.
fn visit_in(
    snapshot: pg_sys::Snapshot,
    table: u32,
    index: u32,
    keys: &[(i16, u32, pg_sys::Datum)],
    mut look: impl FnMut(&Row) -> bool,
) {
    // SAFETY: table and index are ours and exist in this generation; the row is read before the scan ends; an error
    // in between aborts the transaction, which closes both.
    unsafe {
        let relation = pg_sys::table_open(table.into(), pg_sys::AccessShareLock as c_int);
        let mut scan_keys: Vec<_> = keys
            .iter()
            .map(|&(column, equals, value)| {
                let mut key = pg_sys::ScanKeyData::default();
                pg_sys::ScanKeyInit(&mut key, column, pg_sys::BTEqualStrategyNumber as u16, equals.into(), value);
                key
            })
            .collect();
        let count = scan_keys.len() as c_int;
        let first = scan_keys.as_mut_ptr();
        let by_index = index != 0;
        let scan = pg_sys::systable_beginscan(relation, index.into(), by_index, snapshot, count, first);
        loop {
            let tuple = pg_sys::systable_getnext(scan);
            if tuple.is_null() || !look(&Row { tuple, descriptor: (*relation).rd_att }) {
                break;
            }
        }
        pg_sys::systable_endscan(scan);
        pg_sys::table_close(relation, pg_sys::AccessShareLock as c_int);
    }
}
