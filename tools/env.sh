# Environment of the build: cargo-pgrx and the PostgreSQL trees of build/, and no Rust backtraces, which pgrx would
# put into error messages.
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export IMMUTA_BUILD=${IMMUTA_BUILD:-$root/build}
export PGRX_HOME=$IMMUTA_BUILD/pgrx
export PATH=$IMMUTA_BUILD/tools/bin:$PATH
unset RUST_BACKTRACE
# cargo pgrx compiles the library with a flag for the linker, and so each dependency once more than tests and lint do. With
# a flag of ours, which is rustc's default, it adds none; build.rs tells the linker.
export RUSTFLAGS="-C relocation-model=pic" CARGO_PGRX=$root/tools/test-install
cd "$root"
