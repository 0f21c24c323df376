#!/usr/bin/env bash
# One real call on this machine: starts the appliance, calls it with a clip that shows a face, shows what came of it.
set -euo pipefail
. "$(dirname "$0")/env.sh"
cd "$ROOT"

DEMO=$ROOT/demo
eyeline=$TARGET/release/eyeline
scripts/setup.sh release
say "building eyeline (release; the first time takes minutes)"
cargo build --quiet --release --bin eyeline

serve=
stop() {
    [ -n "$serve" ] || return 0
    kill "$serve" 2>/dev/null || true
    for _ in $(seq 50); do kill -0 "$serve" 2>/dev/null || break; sleep 0.1; done
    kill -9 "$serve" 2>/dev/null || true
    wait "$serve" 2>/dev/null || true
    serve=
}
trap stop EXIT

read -r sip console rtp < <(python3 - <<'PYTHON'
import random, socket
def free(first, count):
    held = []
    try:
        for port in range(first, first + count):
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                held.append(socket.socket(socket.AF_INET, kind))
                held[-1].bind(("127.0.0.1", port))
        return True
    except OSError:
        return False
    finally:
        for each in held:
            each.close()
while not free(first := random.randrange(20000, 32000, 50), 50):
    pass
print(first, first + 1, first + 10)
PYTHON
)
rm -rf "$DEMO"; mkdir -p "$DEMO"
"$eyeline" serve --set "sip.listen=[\"udp:127.0.0.1:$sip\", \"tcp:127.0.0.1:$sip\"]" --set "console.listen=\"127.0.0.1:$console\"" \
    --set "media.rtp_ports=[$rtp, $((rtp + 39))]" --set "appliance.data_dir=\"$DEMO/data\"" --set "models.dir=\"$ROOT/models\"" \
    >"$DEMO/serve.log" 2>&1 &
serve=$!
is_ready() {
    exec 3<>"/dev/tcp/127.0.0.1/$console" || return 1
    printf 'GET /readyz HTTP/1.0\r\n\r\n' >&3
    head -1 <&3 | grep -q ' 200 '
}
for _ in $(seq 100); do
    kill -0 "$serve" 2>/dev/null || { cat "$DEMO/serve.log" >&2; fail "the appliance did not start; what it said stands above"; }
    (is_ready) 2>/dev/null && break
    sleep 0.1
done
(is_ready) 2>/dev/null || { tail -n 20 "$DEMO/serve.log" >&2; fail "the appliance is not ready after 10 s; its log is $DEMO/serve.log"; }

printf '\nThe appliance is listening on 127.0.0.1:%s. Calling it for 10 s with a clip of a face...\n\n' "$sip"
"$eyeline" call "sip:demo@127.0.0.1:$sip" --video "$TARGET/media/face.mp4" --duration 10 --out "$DEMO/received" --json | tee "$DEMO/report.json"

stop
recording=$(find "$DEMO/data/recordings" -name '*.mp4' -size +0 | head -1)
[ -n "$recording" ] || fail "the call left no recording; the appliance's log is $DEMO/serve.log"
ffmpeg -hide_banner -loglevel error -nostdin -y -ss 5 -i "$recording" -frames:v 1 "$DEMO/still.png"
json=${recording%.mp4}.json
address=$(hostname -I 2>/dev/null | cut -d' ' -f1)
cat <<END

The face is hidden in everything the appliance sends or stores:
  recording   ${recording#"$ROOT/"}
  a still     demo/still.png
  call record ${json#"$ROOT/"}
  log         demo/serve.log

To call it from a softphone (Linphone, MicroSIP, baresip, a door station) on your network:
  ${eyeline#"$ROOT/"} serve
and dial, with video,
  sip:eyeline@${address:-THIS-MACHINE}
END
