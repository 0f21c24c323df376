#!/usr/bin/env bash
# packages.sh dev|release: Debian packages for building, running and testing; installs only what is missing.
set -euo pipefail
. "$(dirname "$0")/env.sh"

BUILD="build-essential pkg-config clang libclang-dev nasm ca-certificates python3 python3-pip
    libavcodec-dev libavformat-dev libavutil-dev libswscale-dev libswresample-dev libopus-dev"
RUN="ffmpeg espeak-ng"
TEST="baresip-core baresip-ffmpeg kamailio sip-tester tcpdump iproute2 procps"
# A browser and how its SDKs come: for the tests alone.
[ "${1:-dev}" = release ] || TEST+=" curl chromium"

command -v dpkg-query >/dev/null || {
    say "not a Debian system: packages are left to you. Needed are (Debian's names):" $BUILD $RUN $TEST
    exit 0
}
installed=$(dpkg-query -W -f '${Package} ${db:Status-Abbrev}\n' | awk '$2 == "ii" { print $1 }')
missing=()
for package in $BUILD $RUN $TEST; do
    grep -qxF "$package" <<<"$installed" || missing+=("$package")
done
[ ${#missing[@]} -gt 0 ] || exit 0

say "installing ${#missing[@]} Debian packages: ${missing[*]}"
apt_get() {
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=600 "$@" >"$TARGET/setup/apt.log" 2>&1 \
        || { tail -n 15 "$TARGET/setup/apt.log" >&2; fail "apt-get $1 failed; the whole log is in $TARGET/setup/apt.log"; }
}
mkdir -p "$TARGET/setup"
apt_get update
# Kamailio is a program of the tests: its package must not start it as a service of this machine.
if [[ " ${missing[*]} " == *" kamailio "* ]] && [ ! -e /usr/sbin/policy-rc.d ]; then
    printf '#!/bin/sh\nexit 101\n' | as_root tee /usr/sbin/policy-rc.d >/dev/null
    as_root chmod 755 /usr/sbin/policy-rc.d
    trap 'as_root rm -f /usr/sbin/policy-rc.d' EXIT
fi
apt_get install -y --no-install-recommends "${missing[@]}"
