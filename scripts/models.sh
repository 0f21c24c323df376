#!/usr/bin/env bash
# models.sh PROFILE: models into ./models, fetched by `eyeline models pull` of the dev or release build.
set -euo pipefail
. "$(dirname "$0")/env.sh"

profile=${1:-dev}
folder=$([ "$profile" = dev ] && echo debug || echo "$profile")
manifest() { cat "$ROOT/models/models.toml" 2>/dev/null; (cd "$ROOT/models" 2>/dev/null && stat -c '%n %s' -- *.onnx 2>/dev/null) || true; }
stamped models "$(manifest)" && exit 0

say "building eyeline ($profile), which fetches its own models"
# The development build is the one that tests run, with their feature: building it twice would take a minute.
features=$([ "$profile" = dev ] && echo --features=faults || true)
(cd "$ROOT" && cargo build --quiet --profile "$profile" $features --bin eyeline)
eyeline=$TARGET/$folder/eyeline
say "fetching models"
"$eyeline" models pull --set "models.dir=\"$ROOT/models\"" || fail "no model could be fetched; what was tried stands above"
compgen -G "$ROOT/models/*.onnx" >/dev/null || { say "no model is in $ROOT/models: pictures will be slates"; exit 0; }
stamp models "$(manifest)"
