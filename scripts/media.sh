#!/usr/bin/env bash
# Clips and sounds for the demo and the tests, in target/media. Made once; made again when this file changes.
set -euo pipefail
. "$(dirname "$0")/env.sh"

MEDIA=$TARGET/media
stamped media "$(cat "$0")" && exit 0
say "making clips and sounds"
mkdir -p "$MEDIA"

# Public-domain and CC0 sample pictures: NASA's portrait of Eileen Collins, and a coffee cup by Rachel Michetti.
fetch_wheel "scikit-image==0.26.0" "$MEDIA/wheel"
mv -f "$MEDIA"/wheel/unpacked/skimage/data/{astronaut,coffee}.png "$MEDIA/"
rm -rf "$MEDIA/wheel"
(cd "$MEDIA" && sha256sum --check --quiet <<'SUMS'
88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5  astronaut.png
cc02f8ca188b167c775a7101b5d767d1e71792cf762c33d6fa15a4599b5a8de7  coffee.png
SUMS
) || fail "the sample pictures differ from the pinned ones"

ff() { ffmpeg -hide_banner -loglevel error -nostdin -y "$@"; }

# clip OUT PICTURE WIDTH X Y: 12 s of 640x360 at 15 fps, the camera moving over a still picture scaled to WIDTH, with the
# window's left upper corner at X, Y (expressions in n, the picture number). Without sound: baresip 1.0 cannot read
# clips that have some. The face tests know face.mp4's X and Y.
clip() {
    ff -loop 1 -framerate 15 -i "$2" -frames:v 180 -an -pix_fmt yuv420p \
        -vf "scale=$3:-2:flags=lanczos,crop=640:360:'$4':'$5',setsar=1" \
        -c:v libx264 -profile:v baseline -preset medium -crf 20 -g 30 -bf 0 -movflags +faststart "$1"
}
clip "$MEDIA/face.mp4" "$MEDIA/astronaut.png" 768 '64+56*sin(2*PI*n/90)' '44+36*sin(2*PI*n/60)'
clip "$MEDIA/scene.mp4" "$MEDIA/coffee.png" 900 '130+120*sin(2*PI*n/75)' '120+100*sin(2*PI*n/100)'

# Long enough for any test call: baresip does not start a sound file again at its end.
TEXT='Good morning. This is a test call. One, two, three, four, five, six, seven, eight, nine, ten. Please tell me what you can see.'
espeak-ng -v en-us -s 150 -w "$MEDIA/spoken.wav" "$TEXT"
ff -stream_loop -1 -i "$MEDIA/spoken.wav" -t 60 -ac 1 -ar 48000 -c:a pcm_s16le "$MEDIA/speech.wav"
rm -f "$MEDIA/spoken.wav"
for hertz in 700 1100; do
    ff -f lavfi -i "sine=frequency=$hertz:sample_rate=48000:duration=60" -af volume=4 -ac 1 -c:a pcm_s16le "$MEDIA/tone$hertz.wav"
done
stamp media "$(cat "$0")"
