//! The client of this session.

use pgrx::{Inet, direct_function_call, pg_sys};
use std::net::IpAddr;

/// Its address; `None` for one that came by a local socket, or in a process without a client.
pub fn address() -> Option<IpAddr> {
    // SAFETY: takes no arguments and returns null where there is no address.
    let address = unsafe { direct_function_call::<Inet>(pg_sys::inet_client_addr, &[]) };
    address.and_then(|address| address.0.parse().ok())
}
