# Environment of the build: cargo-pgrx and the PostgreSQL trees of build/, and no Rust backtraces, which pgrx would
# put into error messages. For the major that is only tried it is another cargo-pgrx, in a crate of the same sources whose manifest
# names the pgrx that knows that major.
#   . tools/env.sh [VERSION]
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
. "$root/tools/versions.sh"
export IMMUTA_BUILD=${IMMUTA_BUILD:-$root/build}
unset RUST_BACKTRACE
# cargo pgrx compiles the library with a flag for the linker, and so each dependency once more than tests and lint do. With
# a flag of ours, which is rustc's default, it adds none; build.rs tells the linker.
export RUSTFLAGS="-C relocation-model=pic" CARGO_PGRX=$root/tools/test-install

# The first of the installed toolchains that is new enough.
new_rust() {
    local toolchain version
    for toolchain in ${RUSTUP_TOOLCHAIN:-} stable beta nightly; do
        version=$(RUSTUP_AUTO_INSTALL=0 RUSTUP_TOOLCHAIN=$toolchain rustc --version 2>/dev/null | cut -d' ' -f2)
        if [ -n "$version" ] && printf '%s\n' "$TRIED_RUST" "$version" | sort -VC; then
            echo "$toolchain"
            return
        fi
    done
    printf 'PostgreSQL %s needs Rust %s\n' "$TRIED" "$TRIED_RUST" >&2
    return 1
}

if [ "${1:-}" = "$TRIED" ]; then
    RUSTUP_TOOLCHAIN=$(new_rust) || return
    export RUSTUP_TOOLCHAIN PATH=$IMMUTA_BUILD/tools-$TRIED/bin:$PATH PGRX_HOME=$IMMUTA_BUILD/pgrx-$TRIED
    export CARGO_TARGET_DIR=$IMMUTA_BUILD/target-$TRIED
    mkdir -p "$IMMUTA_BUILD/crate-$TRIED"
    cd "$IMMUTA_BUILD/crate-$TRIED"
    for part in src sql build.rs immuta_ext.control rustfmt.toml; do ln -sfn "$root/$part" "$part"; done
    manifest=$(sed -e "s/$PGRX_VERSION/$TRIED_PGRX_VERSION/; s/^\\(rust-version = \\).*/\\1\"$TRIED_RUST\"/" \
        -e "s|^pg_test = .*|pg$TRIED = [\"pgrx/pg$TRIED\", \"pgrx-tests/pg$TRIED\"]\n&|" "$root/Cargo.toml")
    # Cargo builds anew what is written anew.
    if [ "$manifest" != "$(cat Cargo.toml 2>/dev/null)" ]; then
        printf '%s\n' "$manifest" >Cargo.toml
        cp "$root/Cargo.lock" .
    fi
else
    export PATH=$IMMUTA_BUILD/tools/bin:$PATH PGRX_HOME=$IMMUTA_BUILD/pgrx
    cd "$root"
fi
