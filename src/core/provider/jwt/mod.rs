//! JSON Web Tokens, as access tokens (RFC 9068): read, verified and judged, without I/O. No text from a token is shown to
//! anybody, and no URL in one is ever followed.

pub mod cache;
pub mod claims;
pub mod fault;
pub mod json;
pub mod keys;
pub mod policy;
pub mod profile;
pub mod revocation;
pub mod token;
