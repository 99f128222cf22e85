//! What masks name by a `mask_ref`, and the functions that use it.

use crate::pg::catalog::{self, tables};
use crate::pg::mask::{cache, fault::MaskFault};
use crate::pg::sys::inject::{self, Point};
use pgrx::{IntoDatum, pg_sys};
use ring::hmac;
use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt::Write;
use std::rc::Rc;

struct Parameters {
    key: Option<hmac::Key>,
    /// Pattern, replacement and flags.
    regex: Option<[Vec<u8>; 3]>,
}

thread_local! {
    /// By number, and the count of changes at which they were read.
    static KNOWN: RefCell<(u64, HashMap<i32, Rc<Parameters>>)> = RefCell::default();
}

fn parameters(id: i32) -> Rc<Parameters> {
    let changes = cache::changes();
    let known = KNOWN.with_borrow_mut(|(seen, known)| {
        if *seen != changes {
            known.clear();
            *seen = changes;
        }
        known.get(&id).cloned()
    });
    known.unwrap_or_else(|| {
        let found = catalog::mask_tables().and_then(|tables| tables::mask_parameters(&tables, id));
        let Some([salt, pattern, replacement, flags]) = found else { MaskFault::NoParameters(id).raise() };
        inject::point(Point::ParametersRead);
        let parameters = Rc::new(Parameters {
            key: salt.map(|salt| hmac::Key::new(hmac::HMAC_SHA256, &salt)),
            regex: pattern.map(|pattern| [pattern, replacement.unwrap_or_default(), flags.unwrap_or_default()]),
        });
        KNOWN.with_borrow_mut(|(seen, known)| {
            if *seen == changes {
                known.insert(id, Rc::clone(&parameters));
            }
        });
        parameters
    })
}

/// HMAC-SHA-256 in hexadecimal digits.
pub fn hash(value: &[u8], reference: i32) -> Vec<u8> {
    let parameters = parameters(reference);
    let Some(key) = &parameters.key else { MaskFault::NoParameters(reference).raise() };
    let mut digits = String::with_capacity(64);
    for byte in hmac::sign(key, value).as_ref() {
        // A String takes everything.
        let _ = write!(digits, "{byte:02x}");
    }
    digits.into_bytes()
}

/// `regexp_replace()`.
pub fn regex(value: &[u8], reference: i32) -> Vec<u8> {
    let parameters = parameters(reference);
    let Some([pattern, replacement, flags]) = &parameters.regex else {
        MaskFault::NoParameters(reference).raise()
    };
    let text = |bytes: &[u8]| bytes.into_datum().unwrap_or(pg_sys::Datum::null());
    // SAFETY: the function takes four texts, which are bytes in the database encoding as a bytea is, and returns one.
    unsafe {
        let replaced = pg_sys::OidFunctionCall4Coll(
            pg_sys::F_REGEXP_REPLACE_TEXT_TEXT_TEXT_TEXT.into(),
            pg_sys::DEFAULT_COLLATION_OID,
            text(value),
            text(pattern),
            text(replacement),
            text(flags),
        );
        let replaced = pg_sys::pg_detoast_datum_packed(replaced.cast_mut_ptr());
        pgrx::varlena_to_byte_slice(replaced).to_vec()
    }
}

/// What is shown of a reference where a plan is.
pub fn show_reference(reference: i32) -> String {
    reference.to_string()
}
