//! Helper threads. They never touch PostgreSQL.

use std::thread::Builder;

/// Starts a thread with every signal blocked: those of the server are for its own thread. `false` if there can be
/// none.
pub fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> bool {
    let _blocked = Blocked::all();
    Builder::new().name(name.to_owned()).spawn(work).is_ok()
}

/// Keeps signals from this thread, and from threads that it starts, while it lives.
struct Blocked(libc::sigset_t);

impl Blocked {
    fn all() -> Blocked {
        // SAFETY: the sets are plain data, filled by the calls.
        unsafe {
            let mut all = std::mem::zeroed();
            let mut before = std::mem::zeroed();
            libc::sigfillset(&mut all);
            libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut before);
            Blocked(before)
        }
    }
}

impl Drop for Blocked {
    fn drop(&mut self) {
        // SAFETY: the set is the one that all() was given.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &self.0, std::ptr::null_mut()) };
    }
}
