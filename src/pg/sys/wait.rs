//! Waiting that cancel requests, timeouts, the end of the session and the death of the postmaster cut short.

use crate::pg::sys::compat;
use pgrx::pg_sys;
use std::ffi::{c_int, c_long};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

/// Waits, but not longer than a cancel request does.
pub fn pause(span: Duration) {
    let end = Instant::now() + span;
    while !is_over(end) {
        wait(None, end, pg_sys::PG_WAIT_EXTENSION);
    }
}

/// Waits for a moment. `false` if the session is interrupted, which is left for later.
pub fn nap(span: Duration) -> bool {
    let timeout = c_long::try_from(span.as_millis()).unwrap_or(c_long::MAX);
    let wake = pg_sys::WL_LATCH_SET | pg_sys::WL_TIMEOUT | pg_sys::WL_EXIT_ON_PM_DEATH;
    // SAFETY: the process's own latch; a static variable that signal handlers set.
    unsafe {
        pg_sys::WaitLatch(pg_sys::MyLatch, wake as c_int, timeout, pg_sys::PG_WAIT_EXTENSION);
        pg_sys::ResetLatch(pg_sys::MyLatch);
        std::ptr::read_volatile(&raw const pg_sys::InterruptPending) == 0
    }
}

/// While it lives, cancels and the end of the session are left for later.
pub struct Uninterrupted(());

impl Uninterrupted {
    pub fn begin() -> Uninterrupted {
        // SAFETY: a static variable, of this thread.
        unsafe { pg_sys::InterruptHoldoffCount += 1 };
        Uninterrupted(())
    }
}

impl Drop for Uninterrupted {
    fn drop(&mut self) {
        // SAFETY: as in begin(). An error sets it to 0 by itself.
        unsafe { pg_sys::InterruptHoldoffCount = pg_sys::InterruptHoldoffCount.saturating_sub(1) };
    }
}

/// Waits until the descriptor can be read (or its other end is closed), but not beyond `deadline`: whether it can.
/// Raises whatever interrupts the session.
pub fn until_readable(descriptor: BorrowedFd, deadline: Instant) -> bool {
    loop {
        if wait(Some(descriptor), deadline, compat::provider_wait_event()) {
            return true;
        }
        if is_over(deadline) {
            return false;
        }
    }
}

fn is_over(end: Instant) -> bool {
    end.saturating_duration_since(Instant::now()).is_zero()
}

/// One wait, which may end for any reason; whether the descriptor can be read.
fn wait(descriptor: Option<BorrowedFd>, end: Instant, event: u32) -> bool {
    // Rounded up, so that no wait of less than a millisecond spins.
    let left = end.saturating_duration_since(Instant::now()).as_millis().saturating_add(1);
    let timeout = c_long::try_from(left).unwrap_or(c_long::MAX);
    let wake = pg_sys::WL_LATCH_SET | pg_sys::WL_TIMEOUT | pg_sys::WL_EXIT_ON_PM_DEATH;
    let wake = if descriptor.is_some() { wake | pg_sys::WL_SOCKET_READABLE } else { wake };
    let socket = descriptor.map_or(pg_sys::PGINVALID_SOCKET, |descriptor| descriptor.as_raw_fd());
    // SAFETY: the backend's own latch; the descriptor stays open for the call.
    let happened = unsafe {
        let happened = pg_sys::WaitLatchOrSocket(pg_sys::MyLatch, wake as c_int, socket, timeout, event);
        pg_sys::ResetLatch(pg_sys::MyLatch);
        happened
    };
    pgrx::check_for_interrupts!();
    happened & pg_sys::WL_SOCKET_READABLE as c_int != 0
}
