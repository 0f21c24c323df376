#!/usr/bin/env bash
# The vendors' own Python SDKs in target/sdks, for the tests that prove the emulators right. Prints the folder.
set -euo pipefail
cd "$(dirname "$0")/.."
WANTED="openai==3.52.0 google-genai==3.4.0 websockets==16.1.1 anthropic==2.11.0 deepgram-sdk==7.17.0 livekit==1.2.0 anam==0.12.0"
FOLDER="${CARGO_TARGET_DIR:-target}/sdks"
mkdir -p "$FOLDER"
exec 9>"$FOLDER/.lock"
flock 9
if [ "$(cat "$FOLDER/.made" 2>/dev/null)" != "$WANTED" ]; then
    command -v pip3 >/dev/null || { echo "pip3 is missing: install python3-pip" >&2; exit 1; }
    # shellcheck disable=SC2086 # one word a package
    pip3 install --quiet --disable-pip-version-check --root-user-action ignore --upgrade --target "$FOLDER" $WANTED >&2
    echo "$WANTED" >"$FOLDER/.made"
fi
realpath "$FOLDER"
