#!/usr/bin/env bash
# A Rust toolchain. Whatever is there and new enough is used; otherwise Debian's own packages.
set -euo pipefail
. "$(dirname "$0")/env.sh"

tools_complete() { rust_is_new_enough && cargo fmt --version >/dev/null 2>&1 && cargo clippy --version >/dev/null 2>&1; }
tools_complete && exit 0

if rust_is_new_enough && command -v rustup >/dev/null; then
    say "adding rustfmt and clippy to the Rust toolchain"
    rustup --quiet component add rustfmt clippy
    exit 0
fi
# Debian 12 keeps one recent Rust for its browsers; the programs have their usual names in /usr/bin.
PACKAGES="cargo-web rustc-web rustfmt-web rust-web-clippy"
command -v apt-get >/dev/null && apt-cache show cargo-web >/dev/null 2>&1 \
    || fail "no Rust >= $RUST_NEEDED found and no Debian package for it; install one from https://rustup.rs and run again"
say "installing Rust from Debian: $PACKAGES"
mkdir -p "$TARGET/setup"
as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=600 install -y --no-install-recommends $PACKAGES \
    >"$TARGET/setup/apt-rust.log" 2>&1 || { tail -n 15 "$TARGET/setup/apt-rust.log" >&2; fail "could not install Rust"; }
hash -r
. "$(dirname "$0")/env.sh"
tools_complete || fail "Rust is still older than $RUST_NEEDED: $(rustc --version 2>&1); install one from https://rustup.rs"
