# Environment of the build: cargo-pgrx and the PostgreSQL trees of build/, and no Rust backtraces, which pgrx would
# put into error messages.
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export IMMUTA_BUILD=${IMMUTA_BUILD:-$root/build}
export PGRX_HOME=$IMMUTA_BUILD/pgrx
export PATH=$IMMUTA_BUILD/tools/bin:$PATH
unset RUST_BACKTRACE
# What cargo pgrx installs would be compiled with flags and features of its own, and so would each dependency once more
# than for tests. This flag is rustc's default, and keeps other flags away (build.rs has what is needed of them); with
# --examples, of which there are none, dependencies have the features that they have in tests.
export RUSTFLAGS="-C relocation-model=pic" PGRX_BUILD_FLAGS="--examples" CARGO_PGRX=$root/tools/cargo-pgrx
cd "$root"
