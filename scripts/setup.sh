#!/usr/bin/env bash
# setup.sh [dev|release]: everything a build, a demo and the tests need. Run again, it takes a second or two.
set -euo pipefail
cd "$(dirname "$0")"
./packages.sh "${1:-dev}"
./toolchain.sh
./onnxruntime.sh
./media.sh
./models.sh "${1:-dev}"
if [ "${1:-dev}" = dev ]; then
    for kind in "" agents browser; do ./sdks.sh $kind >/dev/null; done
fi
