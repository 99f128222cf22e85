//! Kind and name of objects, as audit records and messages describe them.

use crate::pg::catalog::lookup::{owned, relation, schema_name};
use pgrx::pg_sys;
use std::ffi::c_int;

/// A relation as audit records describe it.
pub struct Relation {
    pub kind: &'static str,
    /// Qualified by its schema.
    pub name: String,
}

pub fn described_relation(oid: u32) -> Option<Relation> {
    let (schema, name) = relation(oid)?;
    // SAFETY: takes an OID by value, searches the system cache.
    let kind = unsafe { pg_sys::get_rel_relkind(oid.into()) };
    let kind = match kind as u8 {
        b'r' => "TABLE",
        b'p' => "PARTITIONED_TABLE",
        b'v' => "VIEW",
        b'm' => "MATERIALIZED_VIEW",
        b'f' => "FOREIGN_TABLE",
        b'S' => "SEQUENCE",
        b'i' | b'I' => "INDEX",
        b't' => "TOAST_TABLE",
        b'c' => "COMPOSITE_TYPE",
        _ => "RELATION",
    };
    Some(Relation { kind, name: format!("{}.{name}", schema_name(schema)?) })
}

/// `pg_largeobject`, the class of large objects; PostgreSQL's own list of classes has that of their metadata.
const LARGE_OBJECTS: u32 = 2613;

/// Kind and name of any object, in the words of PostgreSQL; `None` for one that is gone, and for what is no object by
/// itself (an inheritance, a setting of a role), although changes of it are announced as if it were.
pub fn described_object(class: u32, oid: u32) -> Option<(String, String)> {
    if class == LARGE_OBJECTS {
        // It has no name, and one that a query makes is not visible before the query is over.
        return Some(("large object".into(), oid.to_string()));
    }
    let address = address_of(class, oid)?;
    // SAFETY: missing_ok; as in owned().
    unsafe {
        let name = owned(pg_sys::getObjectIdentity(&address, true))?;
        Some((owned(pg_sys::getObjectTypeDescription(&address, true))?, name))
    }
}

/// The same of an object that is about to be dropped: what it consists of may be gone already (the type that a function
/// takes, of a type that is dropped with its functions), and [`described_object`] would raise an error. What this reads
/// is in the object's own row, or may be missing.
pub fn described_dropped_object(class: u32, oid: u32) -> Option<(String, String)> {
    let address = address_of(class, oid)?;
    // SAFETY: missing_ok; as in owned().
    let kind = unsafe { owned(pg_sys::getObjectTypeDescription(&address, true)) }?;
    let name = match address.classId {
        pg_sys::TypeRelationId => type_name(address.objectId, pg_sys::FORMAT_TYPE_INVALID_AS_NULL)?,
        _ if class == LARGE_OBJECTS => oid.to_string(),
        _ => name_in_own_row(address)?,
    };
    Some((kind, name))
}

fn address_of(class: u32, oid: u32) -> Option<pg_sys::ObjectAddress> {
    let address = pg_sys::ObjectAddress { classId: class.into(), objectId: oid.into(), objectSubId: 0 };
    // SAFETY: takes an OID by value.
    let is_known = class == LARGE_OBJECTS || unsafe { pg_sys::is_objectclass_supported(address.classId) };
    is_known.then_some(address)
}

/// A type's name with its schema. The flag says what becomes of one that is gone.
fn type_name(oid: pg_sys::Oid, of_missing: u32) -> Option<String> {
    let flags = of_missing | pg_sys::FORMAT_TYPE_FORCE_QUALIFY;
    // SAFETY: as in owned().
    unsafe { owned(pg_sys::format_type_extended(oid, -1, flags as _)) }
}

/// What an object's row calls it; its OID where that has no name.
fn name_in_own_row(address: pg_sys::ObjectAddress) -> Option<String> {
    // Classes, and the columns of theirs that say to which relation an object belongs.
    const REWRITE: u32 = 2618;
    const POLICY: u32 = 3256;
    const ANUM_PG_REWRITE_EV_CLASS: c_int = 3;
    const ANUM_PG_POLICY_POLRELID: c_int = 3;
    let class = address.classId;
    // SAFETY: the class is a catalog that PostgreSQL knows the columns of; of a copy of the row columns of those types
    // are read: a name, OIDs, for a function its fixed part.
    unsafe {
        let catalog = pg_sys::table_open(class, pg_sys::AccessShareLock as c_int);
        let row =
            pg_sys::get_catalog_object_by_oid(catalog, pg_sys::get_object_attnum_oid(class), address.objectId);
        let name = (!row.is_null()).then(|| {
            // 0 stands for a column that this class does not have.
            let column = |column: c_int| {
                if column == 0 {
                    return None;
                }
                let mut is_null = false;
                let datum = pg_sys::heap_getattr(row, column, (*catalog).rd_att, &mut is_null);
                (!is_null).then_some(datum)
            };
            let oid = |number: c_int| column(number).map(|datum| pg_sys::Oid::from(datum.value() as u32));
            let Some(name) = column(pg_sys::get_object_attnum_name(class).into()) else {
                return address.objectId.to_u32().to_string();
            };
            let schema = oid(pg_sys::get_object_attnum_namespace(class).into())
                .map_or(std::ptr::null_mut(), |schema| pg_sys::get_namespace_name_or_temp(schema));
            let quoted = pg_sys::quote_qualified_identifier(schema, name.cast_mut_ptr());
            let name = owned(quoted).unwrap_or_default();
            let relation = match class.to_u32() {
                REWRITE => oid(ANUM_PG_REWRITE_EV_CLASS),
                POLICY => oid(ANUM_PG_POLICY_POLRELID),
                _ if class == pg_sys::TriggerRelationId => oid(pg_sys::Anum_pg_trigger_tgrelid as c_int),
                _ => None,
            };
            if class == pg_sys::ProcedureRelationId {
                let form = &*(pg_sys::GETSTRUCT(row) as *const pg_sys::FormData_pg_proc);
                let arguments = form.proargtypes.values.as_slice(usize::try_from(form.pronargs).unwrap_or(0));
                let names: Vec<_> = arguments
                    .iter()
                    .filter_map(|&argument| type_name(argument, pg_sys::FORMAT_TYPE_ALLOW_INVALID))
                    .collect();
                return format!("{name}({})", names.join(","));
            }
            match relation.and_then(|relation| described_relation(relation.to_u32())) {
                Some(relation) => format!("{name} on {}", relation.name),
                None => name,
            }
        });
        pg_sys::table_close(catalog, pg_sys::AccessShareLock as c_int);
        name
    }
}
