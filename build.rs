//! Compiles the little C that reads structures for which pgrx has no bindings: logins with OAuth, on 18 and later. And
//! keeps in the library what cargo pgrx makes the SQL of.

use pgrx_pg_config::Pgrx;
use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=src/pg/hook/login.c");
    println!("cargo:rerun-if-env-changed=PGRX_HOME");
    println!("cargo:rerun-if-env-changed=PGRX_PG_CONFIG_PATH");
    println!("cargo:rustc-check-cfg=cfg(has_oauth_logins)");
    // As cargo pgrx does by flags for everything: with RUSTFLAGS, which tools/env.sh sets, there are none of its own.
    if std::env::var_os("CARGO_CFG_TARGET_OS").is_some_and(|system| system == "linux") {
        println!("cargo:rustc-link-arg-cdylib=-Wl,--no-gc-sections");
    }
    let has = |version: u32| std::env::var_os(format!("CARGO_FEATURE_PG{version}")).is_some();
    let Some(version) = (18..40).find(|version| has(*version)) else { return Ok(()) };
    let found = Pgrx::from_config()?;
    let headers = found.get(&format!("pg{version}"))?.includedir_server()?;
    cc::Build::new().file("src/pg/hook/login.c").include(headers).warnings(false).compile("immuta_login");
    println!("cargo:rustc-cfg=has_oauth_logins");
    Ok(())
}
