//! As whom a session acts: the current user and the security context, which PostgreSQL keeps together (`miscinit.c`).

use crate::pg::sys::raw;
use pgrx::pg_sys;
use std::ffi::c_int;

/// Neither role nor session authorization can be changed, by any route.
pub const LOCKED: u32 = pg_sys::SECURITY_LOCAL_USERID_CHANGE;

#[derive(Clone, Copy)]
#[repr(C)]
pub struct Acting {
    user: pg_sys::Oid,
    context: c_int,
}

impl Acting {
    pub fn now() -> Acting {
        let mut now = Acting { user: pg_sys::Oid::INVALID, context: 0 };
        // SAFETY: reads two static variables, and writes these.
        unsafe { raw::GetUserIdAndSecContext(&mut now.user, &mut now.context) };
        now
    }

    /// From now on the session acts so. Cannot fail.
    pub fn resume(self) {
        // SAFETY: assigns the two static variables.
        unsafe { raw::SetUserIdAndSecContext(self.user, self.context) };
    }

    pub fn user(self) -> u32 {
        self.user.to_u32()
    }

    pub fn is_locked(self) -> bool {
        self.context & LOCKED as c_int != 0
    }

    /// The same user, or another one, confined by these bits as well.
    pub fn confined(self, user: u32, bits: u32) -> Acting {
        Acting { user: user.into(), context: self.context | bits as c_int }
    }

    pub fn unlocked(self) -> Acting {
        Acting { context: self.context & !(LOCKED as c_int), ..self }
    }
}
