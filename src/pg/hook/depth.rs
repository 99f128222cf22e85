//! How deep the hooks are nested.

use crate::pg::mask;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicI32, AtomicU32};

/// How deep the hooks are nested: 0 for a statement that the client sent.
pub static DEPTH: AtomicU32 = AtomicU32::new(0);

/// Nesting level of settings that the running statement will go back to; 0 for none.
pub static SETTINGS_LEVEL: AtomicI32 = AtomicI32::new(0);

pub fn depth() -> u32 {
    DEPTH.load(Relaxed)
}

#[cfg(feature = "inject")]
pub fn state() -> String {
    format!("depth {} {}, planning {}", depth(), SETTINGS_LEVEL.load(Relaxed), mask::planning())
}

/// After an error: back to the depth at which the (sub)transaction began.
pub fn restore_depth(depth: u32) {
    DEPTH.store(depth, Relaxed);
    if mask::planning() > depth {
        mask::set_planning(0);
    }
    if depth == 0 {
        SETTINGS_LEVEL.store(0, Relaxed);
    }
}

/// Whether settings changed now will be undone.
pub fn undoes_settings() -> bool {
    SETTINGS_LEVEL.load(Relaxed) > 0
}
