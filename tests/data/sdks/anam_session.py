"""anam_session.py URL KEY MODE: Anam's own Python SDK in a session of the emulator. MODE passthrough: a voice of ours is
spoken with a picture and falls silent when it is interrupted. MODE microphone: the caller is heard, written down and
answered. Any surprise is an error."""
import asyncio, os, sys

import numpy
from anam import AgentAudioInputConfig, AnamClient, AnamEvent, ClientOptions, PersonaConfig, SessionOptions

url, key, mode = sys.argv[1:4]
RATE = 24_000


def tone(hertz, seconds, rate=RATE):
    return (8_000 * numpy.sin(numpy.arange(int(rate * seconds)) * 2 * numpy.pi * hertz / rate)).astype("<i2")


class Ear:
    def __init__(self):
        self.samples = []

    async def listen(self, session):
        async for frame in session.audio_frames():
            sound = frame.to_ndarray().reshape(-1, len(frame.layout.channels))[:, 0]
            self.samples.extend(sound.tolist())

    def loud(self, begin=0):
        return int((numpy.abs(numpy.array(self.samples[begin:])) > 2_000).sum())

    def hertz(self):
        sound = numpy.array(self.samples, dtype=float)
        where = numpy.flatnonzero(numpy.abs(sound) > 2_000)
        sound = sound[where[0]:where[-1]]
        return float(((sound[:-1] < 0) & (sound[1:] >= 0)).sum() * 48_000 / len(sound))


async def until(true, seconds=10):
    for _ in range(int(seconds * 50)):
        if true():
            return
        await asyncio.sleep(0.02)
    raise AssertionError("it does not happen")


async def passthrough(session, ear):
    stream = session.create_agent_audio_input_stream(AgentAudioInputConfig(encoding="pcm_s16le", sample_rate=RATE, channels=1))
    sound = tone(440, 1.0)
    for at in range(0, len(sound), RATE // 2):
        await stream.send_audio_chunk(sound[at:at + RATE // 2].tobytes())
    await stream.end_sequence()
    await until(lambda: ear.loud() > 30_000)
    assert abs(ear.hertz() - 440) < 5, ear.hertz()
    await asyncio.sleep(0.5)
    await stream.send_audio_chunk(tone(700, 5.0).tobytes())
    begin = len(ear.samples)
    await until(lambda: ear.loud(begin) > 5_000)
    await session.interrupt()
    await stream.end_sequence()
    await asyncio.sleep(0.5)
    begin = len(ear.samples)
    await asyncio.sleep(0.5)
    assert len(ear.samples) > begin + 10_000 and ear.loud(begin) == 0, "it goes on"


async def microphone(session, ear, words, told):
    blocks = numpy.concatenate([tone(600, 1.0, 48_000), numpy.zeros(48_000 * 2, "<i2")])
    for at in range(0, len(blocks), 960):
        session.send_user_audio(blocks[at:at + 960].tobytes(), 48_000, 1)
        await asyncio.sleep(0.02)
    await until(lambda: len(words) == 2 and ear.loud() > 20_000)
    assert abs(ear.hertz() - 523) < 5, ear.hertz()
    assert told == ["started", "ended"], told
    assert [(word.role.value, word.content) for word in words] == [
        ("user", "What time is it?"), ("assistant", "It is noon in the whole wide world.")], words


async def main():
    persona = PersonaConfig(avatar_id="a-1", enable_audio_passthrough=mode == "passthrough")
    client = AnamClient(api_key=key, persona_config=persona, options=ClientOptions(api_base_url=url))
    ready, words, told = asyncio.Event(), [], []
    client.add_listener(AnamEvent.SESSION_READY, ready.set)
    client.add_listener(AnamEvent.MESSAGE_RECEIVED, words.append)
    client.add_listener(AnamEvent.USER_SPEECH_STARTED, lambda _: told.append("started"))
    client.add_listener(AnamEvent.USER_SPEECH_ENDED, lambda _: told.append("ended"))
    session = await client.connect_async(SessionOptions())
    await asyncio.wait_for(ready.wait(), 10)
    ear = Ear()
    listening = asyncio.create_task(ear.listen(session))

    async def look():
        async for frame in session.video_frames():
            return frame.width, frame.height

    assert await asyncio.wait_for(look(), 10) == (640, 360)
    await (passthrough(session, ear) if mode == "passthrough" else microphone(session, ear, words, told))
    listening.cancel()
    try:
        await asyncio.wait_for(session.close(), 3)
    except asyncio.TimeoutError:
        pass  # having said farewell, it waits for its own microphone
    os._exit(0)


asyncio.run(main())
