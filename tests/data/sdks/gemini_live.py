"""Google's SDK against the emulator of Gemini Live: every field of every message must be one the SDK knows.

Usage: gemini_live.py HTTP_URL KEY
"""

import asyncio
import sys

from google import genai
from google.genai import live, types

SPEECH = b"".join((5000 if n // 16 % 2 == 0 else -5000).to_bytes(2, "little", signed=True) for n in range(320))
SILENCE = bytes(640)


def strictly(session):
    """The SDK reads what it knows and passes over the rest; here the rest is an error."""
    receive = session._ws.recv

    async def checked(*arguments, **named):
        raw = await receive(*arguments, **named)
        types.LiveServerMessage.model_validate_json(raw)
        return raw

    session._ws.recv = checked


async def main(url, key):
    client = genai.Client(api_key=key, http_options={"base_url": url})
    # It would speak TLS to anyone.
    client._api_client._websocket_base_url = lambda *_, **__: url.replace("http://", "ws://")
    connect = live.ws_connect
    live.ws_connect = lambda *positional, ssl=None, **named: connect(*positional, **named)
    config = types.LiveConnectConfig(
        response_modalities=["AUDIO"],
        system_instruction="Be short.",
        tools=[{"function_declarations": [{"name": "look", "parameters": {"type": "OBJECT", "properties": {"where": {"type": "STRING"}}}}]}],
        input_audio_transcription={},
        output_audio_transcription={},
        session_resumption={},
        context_window_compression={"trigger_tokens": 25600, "sliding_window": {}},
        realtime_input_config={"turn_coverage": "TURN_INCLUDES_ALL_INPUT"},
    )
    handles = []
    async with client.aio.live.connect(model="gemini-live", config=config) as session:
        assert session.session_id, "setupComplete names the session"
        strictly(session)

        async def until(wanted):
            async def search():
                while True:
                    message = await session._receive()
                    if message.session_resumption_update and message.session_resumption_update.new_handle:
                        handles.append(message.session_resumption_update.new_handle)
                    if wanted(message):
                        return message

            return await asyncio.wait_for(search(), 10)

        await session.send_realtime_input(video=types.Blob(data=b"\xff\xd8\xff\xe0", mime_type="image/jpeg"))
        for n in range(80):
            block = SPEECH if n < 50 else SILENCE
            await session.send_realtime_input(audio=types.Blob(data=block, mime_type="audio/pcm;rate=16000"))
        heard, sound, said, usage = "", 0, "", None
        while True:
            message = await until(lambda message: True)
            content = message.server_content
            usage = message.usage_metadata or usage
            if content is None:
                continue
            if content.input_transcription:
                heard += content.input_transcription.text
            if content.output_transcription:
                said += content.output_transcription.text
            if content.model_turn:
                part = content.model_turn.parts[0].inline_data
                assert part.mime_type == "audio/pcm;rate=24000", part.mime_type
                sound += len(part.data)
            if content.turn_complete:
                break
        assert heard.strip() == "What do you see?", heard
        assert said.strip() == "I see a test picture.", said
        assert sound == 48000, sound
        assert usage.prompt_token_count > 0 and usage.prompt_tokens_details, usage
        await session.send_realtime_input(text="Look.")
        call = await until(lambda message: message.tool_call)
        call = call.tool_call.function_calls[0]
        assert call.name == "look" and call.args == {"where": "door"}, call
        await session.send_tool_response(
            function_responses=types.FunctionResponse(id=call.id, name=call.name, response={"output": "a person"})
        )
        await until(lambda message: message.server_content and message.server_content.generation_complete)
        for _ in range(5):
            await session.send_realtime_input(audio=types.Blob(data=SPEECH, mime_type="audio/pcm;rate=16000"))
        await until(lambda message: message.server_content and message.server_content.interrupted)
        await until(lambda message: message.server_content and message.server_content.turn_complete)
        gone = await until(lambda message: message.go_away)
        assert gone.go_away.time_left, gone
    assert handles
    config.session_resumption = types.SessionResumptionConfig(handle=handles[-1])
    async with client.aio.live.connect(model="gemini-live", config=config) as session:
        assert session.session_id
    config.session_resumption = types.SessionResumptionConfig(handle="unknown")
    try:
        async with client.aio.live.connect(model="gemini-live", config=config):
            raise AssertionError("an unknown handle was taken")
    except AssertionError:
        raise
    except Exception as error:
        assert "1007" in str(error), error
    print(f"{len(handles)} handles")


asyncio.run(main(*sys.argv[1:]))
