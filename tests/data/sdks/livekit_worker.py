"""livekit_worker.py URL TOKEN: a face made with LiveKit's own worker code, as vendors build theirs: it hears what streams
in, gives the sound back and shows a picture that is bright while there is some. Ends with its room."""
import asyncio, sys

import numpy
from livekit import rtc
from livekit.agents.voice.avatar import (
    AudioSegmentEnd, AvatarOptions, AvatarRunner, DataStreamAudioReceiver, VideoGenerator)

WIDTH, HEIGHT, FPS, RATE = 320, 180, 25, 24_000


class Mirror(VideoGenerator):
    def __init__(self):
        self.heard = asyncio.Queue()

    async def push_audio(self, frame):
        await self.heard.put(frame)

    def clear_buffer(self):
        while not self.heard.empty():
            self.heard.get_nowait()

    def __aiter__(self):
        return self.frames()

    def picture(self, level):
        pixels = numpy.full((HEIGHT, WIDTH, 4), level, numpy.uint8)
        return rtc.VideoFrame(WIDTH, HEIGHT, rtc.VideoBufferType.RGBA, pixels.tobytes())

    async def frames(self):
        piece, waiting = RATE // FPS, numpy.zeros(0, numpy.int16)
        while True:
            try:
                frame = await asyncio.wait_for(self.heard.get(), 0.5 / FPS)
            except asyncio.TimeoutError:
                yield self.picture(40)
                continue
            if isinstance(frame, AudioSegmentEnd):
                yield frame
                continue
            assert frame.sample_rate == RATE and frame.num_channels == 1, frame
            waiting = numpy.concatenate([waiting, numpy.asarray(frame.data)])
            while len(waiting) >= piece:
                sound, waiting = waiting[:piece], waiting[piece:]
                yield self.picture(200)
                yield rtc.AudioFrame(sound.tobytes(), RATE, 1, piece)


async def main():
    url, token = sys.argv[1:3]
    room, over = rtc.Room(), asyncio.Event()
    room.on("disconnected", lambda _reason: over.set())
    await room.connect(url, token)
    options = AvatarOptions(WIDTH, HEIGHT, FPS, RATE, 1)
    runner = AvatarRunner(room, audio_recv=DataStreamAudioReceiver(room), video_gen=Mirror(), options=options)
    await runner.start()
    await over.wait()
    await runner.aclose()


asyncio.run(main())
