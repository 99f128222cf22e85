# Environment of the build: cargo-pgrx and the PostgreSQL trees of build/, and no Rust backtraces, which pgrx would
# put into error messages.
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export IMMUTA_BUILD=${IMMUTA_BUILD:-$root/build}
export PGRX_HOME=$IMMUTA_BUILD/pgrx
export PATH=$IMMUTA_BUILD/tools/bin:$PATH
unset RUST_BACKTRACE RUSTFLAGS
cd "$root"
