"""OpenAI's SDK against the emulator of its Realtime API: every event is checked by the SDK's own types.

Usage: openai_realtime.py WS_URL KEY
"""

import asyncio
import base64
import json
import sys

from openai import AsyncOpenAI, AuthenticationError  # noqa: F401
from openai.types.realtime import RealtimeServerEvent
from pydantic import TypeAdapter

EVENT = TypeAdapter(RealtimeServerEvent)
SPEECH = base64.b64encode(bytes(0x9F if n // 8 % 2 == 0 else 0x1F for n in range(160))).decode()
SILENCE = base64.b64encode(b"\xff" * 160).decode()


async def main(url, key):
    client = AsyncOpenAI(api_key=key, base_url=url.replace("ws://", "http://"), websocket_base_url=url)
    seen = []
    async with client.realtime.connect(model="gpt-realtime") as connection:

        async def until(kind):
            while True:
                raw = await asyncio.wait_for(connection.recv_bytes(), 10)
                # Strict: the SDK itself would take anything.
                event = EVENT.validate_json(raw)
                assert json.loads(raw)["event_id"], raw
                seen.append(event.type)
                if event.type == kind:
                    return event

        await until("session.created")
        await connection.session.update(
            session={
                "type": "realtime",
                "output_modalities": ["audio"],
                "instructions": "Be short.",
                "tools": [{"type": "function", "name": "look", "description": "Looks.", "parameters": {"type": "object"}}],
                "audio": {
                    "input": {
                        "format": {"type": "audio/pcmu"},
                        "transcription": {"model": "gpt-4o-mini-transcribe"},
                        "turn_detection": {"type": "server_vad", "silence_duration_ms": 200},
                    },
                    "output": {"format": {"type": "audio/pcmu"}, "voice": "marin"},
                },
            }
        )
        updated = await until("session.updated")
        assert updated.session.audio.input.turn_detection.silence_duration_ms == 200
        await connection.conversation.item.create(
            item={
                "id": "picture_1",
                "type": "message",
                "role": "user",
                "content": [{"type": "input_image", "image_url": "data:image/jpeg;base64,/9j/4AAQ", "detail": "low"}],
            }
        )
        added = await until("conversation.item.added")
        assert added.item.id == "picture_1"
        for n in range(80):
            await connection.input_audio_buffer.append(audio=SPEECH if n < 50 else SILENCE)
        started = await until("input_audio_buffer.speech_started")
        assert started.item_id
        sound = 0
        done = None
        while done is None:
            raw = await asyncio.wait_for(connection.recv_bytes(), 10)
            event = EVENT.validate_json(raw)
            seen.append(event.type)
            if event.type == "response.output_audio.delta":
                sound += len(base64.b64decode(event.delta))
                item = event.item_id
            if event.type == "response.done":
                done = event
        assert done.response.status == "completed" and done.response.usage.input_tokens > 0, done
        assert sound == 8000, sound
        order = [
            "input_audio_buffer.speech_stopped",
            "input_audio_buffer.committed",
            "response.created",
            "response.output_item.added",
            "response.content_part.added",
            "response.output_audio.delta",
            "response.output_audio.done",
            "response.content_part.done",
            "response.output_item.done",
            "response.done",
        ]
        places = [seen.index(kind) for kind in order]
        assert places == sorted(places), seen
        await connection.conversation.item.truncate(item_id=item, content_index=0, audio_end_ms=400)
        await until("conversation.item.truncated")
        await connection.conversation.item.truncate(item_id=item, content_index=0, audio_end_ms=9000)
        error = await until("error")
        assert error.error.param == "audio_end_ms", error
        await connection.conversation.item.delete(item_id="picture_1")
        await until("conversation.item.deleted")
        await connection.response.create(
            response={
                "conversation": "none",
                "output_modalities": ["text"],
                "metadata": {"aside": "1"},
                "input": [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Well?"}]}],
            }
        )
        text = await until("response.output_text.done")
        assert text.text
        await until("response.done")
        await connection.response.create()
        call = await until("response.function_call_arguments.done")
        await until("response.done")
        await connection.conversation.item.create(
            item={"type": "function_call_output", "call_id": call.call_id, "output": "{}"}
        )
        await until("conversation.item.done")
        await connection.response.create()
        await until("response.output_audio.delta")
        await connection.response.cancel()
        cancelled = await until("response.done")
        assert cancelled.response.status == "cancelled", cancelled
        assert cancelled.response.status_details.reason == "client_cancelled", cancelled
    print(f"{len(seen)} events of {len(set(seen))} kinds")


asyncio.run(main(*sys.argv[1:]))
