//! Values of settings, as the rest of the library wants them.

use crate::pg::guc::{self, Kind, Number, Setting, TextCheck};
use crate::pg::sys::text;
use std::ffi::CString;
use std::time::Duration;

pub fn bytes(setting: &Setting<Number>) -> u64 {
    1024 * u64::try_from(setting.get()).unwrap_or(0)
}

pub fn seconds(setting: &Setting<Number>) -> Duration {
    Duration::from_secs(u64::try_from(setting.get()).unwrap_or(0))
}

pub fn milliseconds(setting: &Setting<Number>) -> Duration {
    Duration::from_millis(u64::try_from(setting.get()).unwrap_or(0))
}

pub fn text(setting: &Setting<impl Kind<Value = Option<CString>>>) -> String {
    setting.get().and_then(|raw| raw.into_string().ok()).unwrap_or_default()
}

/// A text that users wrote, in the encoding of the database.
pub fn server_text(setting: &Setting<impl Kind<Value = Option<CString>>>) -> String {
    setting.get().map(|raw| text::from_server(raw.as_bytes())).unwrap_or_default()
}

pub fn list(setting: &Setting<impl Kind<Value = Option<CString>>>) -> Vec<String> {
    setting.get().and_then(|raw| guc::split_names(&raw)).unwrap_or_default()
}

/// Any text that fits on one line.
pub struct OneLine;

impl TextCheck for OneLine {
    fn check(text: &str) -> Result<(), String> {
        if text.contains(char::is_control) { Err("Control characters are not allowed.".into()) } else { Ok(()) }
    }
}
