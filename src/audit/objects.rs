//! The objects that a statement accesses, with their names, remembered as long as no catalog says otherwise.

use crate::core::audit::{Access, Object};
use crate::core::guard::FIRST_NORMAL_OBJECT_ID;
use crate::pg::catalog::{self, Relation};
use crate::pg::gate;
use crate::pg::hook::handlers::Change;
use crate::pg::hook::statement::Accessed;
use foldhash::fast::RandomState;
use std::cell::RefCell;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::rc::Rc;

/// Beyond this many relations the memory starts anew.
const CAPACITY: usize = 1000;

/// A relation's names in UTF-8.
struct KnownRelation {
    kind: &'static str,
    name: Rc<str>,
    columns: HashMap<i16, Rc<str>, RandomState>,
}

/// None for those of this extension, which its functions and event triggers read on behalf of everybody.
type Relations = HashMap<u32, Option<KnownRelation>, RandomState>;

thread_local! {
    static KNOWN: RefCell<(u64, Relations)> = RefCell::default();
}

/// A relation of a query. `None` for one that is gone, or of this extension.
pub fn relation(accessed: &Accessed) -> Option<Object> {
    KNOWN.with_borrow_mut(|(generation, known)| {
        let current = gate::relations();
        if *generation != current || known.len() >= CAPACITY {
            known.clear();
            *generation = current;
        }
        let known = match known.entry(accessed.relation) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => {
                let is_ours = catalog::presence().is_some_and(|installed| installed.owns(accessed.relation));
                let Relation { kind, name } = catalog::described_relation(accessed.relation)?;
                place.insert((!is_ours).then(|| KnownRelation {
                    kind,
                    name: name.into(),
                    columns: HashMap::default(),
                }))
            }
        }
        .as_mut()?;
        let mut name = |&column: &i16| {
            if let Some(name) = known.columns.get(&column) {
                return Some(Rc::clone(name));
            }
            let name: Rc<str> =
                if column == 0 { "*".into() } else { catalog::column_name(accessed.relation, column)?.into() };
            known.columns.insert(column, Rc::clone(&name));
            Some(name)
        };
        Some(Object {
            id: accessed.relation,
            columns: accessed.columns.iter().filter_map(&mut name).collect(),
            masked: accessed.masked.iter().filter_map(&mut name).collect(),
            kind: known.kind.into(),
            name: Rc::clone(&known.name),
            access: Access(accessed.privileges),
        })
    })
}

/// A function, unless it came with PostgreSQL or with this extension.
pub fn function(oid: u32) -> Option<Object> {
    if oid < FIRST_NORMAL_OBJECT_ID {
        return None;
    }
    let function = catalog::function(oid)?;
    let schema = catalog::schema_name(function.schema)?;
    if matches!(&*schema, "immuta" | "immuta_internal")
        && catalog::presence().is_some_and(|i| catalog::is_ours(oid, i.extension))
    {
        return None;
    }
    Some(Object {
        id: oid,
        kind: "FUNCTION".into(),
        name: format!("{schema}.{}", function.name).into(),
        access: Access::EXECUTE,
        columns: Vec::new(),
        masked: Vec::new(),
    })
}

/// Any object of a DDL statement.
pub fn any(change: Change, class: u32, oid: u32) -> Option<Object> {
    let access = match change {
        Change::Created => Access::CREATE,
        Change::Altered => Access::ALTER,
        Change::Dropped => Access::DROP,
    };
    let (kind, name) = match change {
        Change::Dropped => catalog::described_dropped_object(class, oid)?,
        Change::Created | Change::Altered => catalog::described_object(class, oid)?,
    };
    let kind = kind.to_uppercase().replace(' ', "_");
    Some(Object { id: oid, kind: kind.into(), name: name.into(), access, columns: Vec::new(), masked: Vec::new() })
}
