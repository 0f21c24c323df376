#!/usr/bin/env bash
# sdks.sh: fetches the vendors' Python SDKs that prove the emulators of their APIs, once, and prints the folder they are in.
set -euo pipefail
. "$(dirname "$0")/env.sh"
SDKS=$TARGET/provider-sdks
WANTED="openai==3.52.0 google-genai==3.4.0 anthropic==2.11.0 deepgram-sdk==7.17.0"
if ! stamped provider-sdks "$WANTED"; then
    command -v pip3 >/dev/null || fail "pip3 is missing: install python3-pip"
    rm -rf "$SDKS"
    pip3 install --quiet --disable-pip-version-check --root-user-action ignore --target "$SDKS" $WANTED >&2 \
        || fail "could not fetch the SDKs with pip; check the network, or PIP_INDEX_URL for a mirror"
    stamp provider-sdks "$WANTED"
fi
printf '%s\n' "$SDKS"
