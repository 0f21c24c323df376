#!/usr/bin/env bash
# libonnxruntime.so beside the binaries, taken from the PyPI wheel. The library's own hash is pinned: it is the same
# build in the wheels of every Python version.
set -euo pipefail
. "$(dirname "$0")/env.sh"

VERSION=1.31.1
case $(uname -m) in
    x86_64) SHA256=fc44112fbe06d7d689c57e11d3862031f64711007e4ee020f8eed5185fd2c1d3 ;;
    aarch64) SHA256=8aa3b76b28c778a2b1dd660d34161adb1d508c9ccd04ff9dc80e26eca5df8467 ;;
    *) fail "no ONNX Runtime is pinned for $(uname -m); put libonnxruntime.so >= 1.17 beside the binary yourself" ;;
esac
STORE=$TARGET/onnxruntime/libonnxruntime.so
is_right() { [ -f "$1" ] && [ "$(sha256sum "$1" | cut -d' ' -f1)" = "$SHA256" ]; }

if ! is_right "$STORE"; then
    say "fetching ONNX Runtime $VERSION (30 MB)"
    fetch_wheel "onnxruntime==$VERSION" "$TARGET/onnxruntime/wheel"
    mv -f "$TARGET"/onnxruntime/wheel/unpacked/onnxruntime/capi/libonnxruntime.so.* "$STORE"
    rm -rf "$TARGET/onnxruntime/wheel"
    is_right "$STORE" || fail "the ONNX Runtime library has another hash than the pinned one; it was not installed"
fi
for profile in debug release; do
    beside=$TARGET/$profile/libonnxruntime.so
    [ "$beside" -ef "$STORE" ] && continue
    mkdir -p "$TARGET/$profile"
    ln -f "$STORE" "$beside" 2>/dev/null || cp -f "$STORE" "$beside"
done
