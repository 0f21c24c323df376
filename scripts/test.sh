#!/usr/bin/env bash
# The gate: formatting, clippy with warnings as errors, every test. Says how long each part took.
set -uo pipefail
. "$(dirname "$0")/env.sh"
cd "$ROOT" || exit 1

summary=()
failed=0
# step NAME COMMAND...: runs it; a failure is remembered, so that one run shows everything.
step() {
    local name=$1 start=$SECONDS result=ok; shift
    printf '== %s\n' "$name"
    "$@" || { result=FAILED; failed=1; }
    summary+=("$(printf '%-28s %6s  %4d s' "$name" "$result" $((SECONDS - start)))")
}

# Tests capture what a peer receives, which needs the right to read packets on loopback. Whoever is not root gets it
# in a namespace of their own, with a loopback of its own and an interface that leads nowhere: the vendors' SDKs take no
# loopback for a network.
in_own_network() {
    if [ "$(id -u)" = 0 ]; then "$@"; return; fi
    unshare --map-current-user --keep-caps --net sh -c '
        ip link set lo up
        ip link add outside type dummy 2>/dev/null || ip link add outside type veth peer name nowhere
        ip address add 192.0.2.1/24 dev outside
        ip link set outside up
        ip link set nowhere up 2>/dev/null
        exec "$@"' sh "$@"
}
run_tests() {
    if cargo nextest --version >/dev/null 2>&1; then
        # Two slots a core; .config/nextest.toml says how many a test takes.
        in_own_network cargo nextest run --no-fail-fast --test-threads $((2 * $(nproc))) "$@"
    else
        # Without nextest a live-video test shares the machine with nothing, or it would measure its neighbours.
        in_own_network cargo test --no-fail-fast "$@" -- --test-threads 2
    fi
}

# Tests break the detectors on purpose, which needs the feature in every step, or each would build its own program.
step 'formatting' cargo fmt --check
step 'clippy' cargo clippy --quiet --all-targets --features faults -- -D warnings
step 'clippy as shipped' cargo clippy --quiet --lib --bins -- -D warnings
step 'build' cargo test --quiet --features faults --no-run
step 'tests' run_tests --features faults "$@"

printf '\n== summary\n'
printf '%s\n' "${summary[@]}"
exit $failed
