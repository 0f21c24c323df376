"""livekit_room.py URL TOKEN AVATAR: LiveKit's own Python SDK in a room of the emulator: what the worker publishes comes,
speech by a stream of bytes is played, the procedures go both ways. Any surprise is an error."""
import asyncio, sys

import numpy
from livekit import rtc

url, token, avatar = sys.argv[1:4]


async def main():
    room, tracks, told = rtc.Room(), {}, asyncio.Queue()

    @room.on("track_subscribed")
    def subscribed(track, publication, participant):
        assert participant.identity == avatar, participant
        tracks[track.kind] = track

    async def answer(method, data):
        assert data.caller_identity == avatar, data
        told.put_nowait((method, data.payload))
        return "ok"

    await room.connect(url, token)
    for method in ("lk.playback_started", "lk.playback_finished"):
        room.local_participant.register_rpc_method(method, lambda data, method=method: answer(method, data))
    for _ in range(100):
        if len(tracks) == 2:
            break
        await asyncio.sleep(0.1)
    assert set(tracks) == {rtc.TrackKind.KIND_AUDIO, rtc.TrackKind.KIND_VIDEO}, tracks
    rate, loud = 24_000, 0
    tone = (8_000 * numpy.sin(numpy.arange(rate) * 2 * numpy.pi * 440 / rate)).astype("<i2").tobytes()
    writer = await room.local_participant.stream_bytes(
        name="AUDIO_1", topic="lk.audio_stream", destination_identities=[avatar],
        attributes={"sample_rate": str(rate), "num_channels": "1"})
    await writer.write(tone)
    await writer.aclose()

    async def listen():
        nonlocal loud
        async for event in rtc.AudioStream(tracks[rtc.TrackKind.KIND_AUDIO], sample_rate=48_000, num_channels=1):
            loud += int((numpy.abs(numpy.asarray(event.frame.data)) > 2_000).sum())

    async def look():
        async for event in rtc.VideoStream(tracks[rtc.TrackKind.KIND_VIDEO]):
            return event.frame.width, event.frame.height

    ear = asyncio.create_task(listen())
    size = await asyncio.wait_for(look(), 10)
    assert size == (640, 360), size
    started = await asyncio.wait_for(told.get(), 10)
    finished = await asyncio.wait_for(told.get(), 10)
    assert started[0] == "lk.playback_started" and finished[0] == "lk.playback_finished", (started, finished)
    assert '"interrupted":false' in finished[1], finished
    await asyncio.sleep(0.3)
    assert loud > 15_000, loud
    await room.local_participant.perform_rpc(destination_identity=avatar, method="lk.clear_buffer", payload="")
    interrupted = await asyncio.wait_for(told.get(), 10)
    assert '"interrupted":true' in interrupted[1], interrupted
    ear.cancel()
    await room.disconnect()


asyncio.run(main())
