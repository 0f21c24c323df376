#!/usr/bin/env bash
# sdks.sh [agents|browser]: the vendors' own SDKs, for the tests that prove the emulators right. In target/sdks those for
# Python; in target/sdks-agents LiveKit's code for workers, which wants another version of its SDK; in target/sdks-browser
# those for browsers. Prints the folder.
set -euo pipefail
. "$(dirname "$0")/env.sh"
KIND=${1:-}
FOLDER=$TARGET/sdks${KIND:+-$KIND}
case $KIND in
"") WANTED="openai==3.52.0 google-genai==3.4.0 websockets==16.1.1 anthropic==2.11.0 deepgram-sdk==7.17.0 livekit==1.2.0 anam==0.12.0" ;;
agents) WANTED="livekit-agents==1.8.9" ;;
# Archives of the registry and the one file wanted of each.
browser) WANTED="livekit-client/-/livekit-client-2.23.0.tgz:dist/livekit-client.umd.js
    @anam-ai/js-sdk/-/js-sdk-4.27.0.tgz:dist/umd/anam.js
    @heygen/liveavatar-web-sdk/-/liveavatar-web-sdk-0.0.18.tgz:dist/index.umd.js
    events/-/events-3.3.0.tgz:events.js" ;;
*) fail "sdks.sh [agents|browser]" ;;
esac

python_packages() {
    command -v pip3 >/dev/null || fail "pip3 is missing: install python3-pip"
    # shellcheck disable=SC2086 # one word a package
    pip3 install --quiet --disable-pip-version-check --root-user-action ignore --upgrade --target "$FOLDER" $WANTED >&2
}

scripts_for_browsers() {
    local registry=${npm_config_registry:-https://registry.npmjs.org} one
    for one in $WANTED; do
        local archive=$FOLDER/${one##*/-/} name=${one%%/-/*}
        archive=${archive%%:*}
        curl --silent --show-error --fail --location --max-time 120 --output "$archive" "${registry%/}/${one%%:*}" \
            || fail "could not fetch $name; check the network, or npm_config_registry for a mirror"
        tar -xzOf "$archive" "package/${one#*:}" >"$FOLDER/${name##*/}.js"
        rm -f "$archive"
    done
    (cd "$FOLDER" && sha256sum --check --quiet "$ROOT/tests/data/sdks/browser.sha256" >&2) \
        || fail "a script for browsers has another hash than the pinned one"
}

mkdir -p "$FOLDER"
exec 9>"$FOLDER/.lock"
flock 9
if [ "$(cat "$FOLDER/.made" 2>/dev/null)" != "$WANTED" ]; then
    if [ "$KIND" = browser ]; then scripts_for_browsers; else python_packages; fi
    echo "$WANTED" >"$FOLDER/.made"
fi
realpath "$FOLDER"
