"""providers.py VENDOR HOST:PORT: a vendor's own Python SDK against the emulator of its API; any surprise is an error."""
import asyncio, base64, io, sys, wave

vendor, address = sys.argv[1:3]
JPEG = b"\xff\xd8\xff\xe0 a picture"
URL = "data:image/jpeg;base64," + base64.b64encode(JPEG).decode()
LOOK = {"type": "object", "properties": {"at": {"type": "string"}}}


def sound(seconds=1.0, rate=8000):
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1), file.setsampwidth(2), file.setframerate(rate)
        file.writeframes(b"\x10\x01" * int(seconds * rate))
    return out.getvalue()


def openai():
    import openai as sdk
    client = sdk.OpenAI(api_key="key-1", base_url=f"http://{address}/v1", max_retries=2)
    parts = [{"type": "image_url", "image_url": {"url": URL, "detail": "low"}}, {"type": "text", "text": "hi"}]
    # The first answer is a 429 with Retry-After: the SDK comes back by itself.
    stream = client.chat.completions.create(
        model="m", messages=[{"role": "user", "content": parts}], stream=True, stream_options={"include_usage": True})
    text, usage, finish = "", None, None
    for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            text += choice.delta.content or ""
            finish = choice.finish_reason or finish
    assert text == "Echo: hi 🙂 1" and finish == "stop" and usage.prompt_tokens_details.image_tokens == 85, (text, usage)
    tools = [{"type": "function", "function": {"name": "look", "parameters": LOOK}}]
    with client.chat.completions.stream(model="m", messages=[{"role": "user", "content": "use a tool"}], tools=tools) as s:
        whole = s.get_final_completion()
    call = whole.choices[0].message.tool_calls[0]
    assert (call.function.name, call.function.arguments) == ("look", '{"at":"door"}'), call
    plain = client.chat.completions.create(model="m", messages=[{"role": "user", "content": "plain"}])
    assert plain.choices[0].message.content == "Echo: plain 🙂 0"
    for wrong, kind in [
        (dict(model="no-such-model", messages=[{"role": "user", "content": "x"}]), sdk.NotFoundError),
        (dict(model="m", messages=[]), sdk.BadRequestError),
        (dict(model="m", messages=[{"role": "tool", "tool_call_id": "c", "content": "x"}]), sdk.BadRequestError),
    ]:
        try:
            client.chat.completions.create(**wrong)
            raise SystemExit(f"{wrong} was taken")
        except kind:
            pass
    try:
        sdk.OpenAI(api_key="wrong", base_url=f"http://{address}/v1").models.with_raw_response
        sdk.OpenAI(api_key="wrong", base_url=f"http://{address}/v1").chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}])
        raise SystemExit("a wrong key was taken")
    except sdk.AuthenticationError:
        pass
    heard = client.audio.transcriptions.create(model="whisper-1", file=("a.wav", sound()), language="en")
    assert heard.text == "hello from the emulator", heard
    events = list(client.audio.transcriptions.create(model="gpt-4o-transcribe", file=("a.wav", sound()), stream=True))
    assert events[-1].type == "transcript.text.done" and events[-1].text == heard.text, events
    with client.audio.speech.with_streaming_response.create(model="tts-1", voice="alloy", input="hello", response_format="pcm") as r:
        assert sum(len(piece) for piece in r.iter_bytes()) == 5 * 50 * 24 * 2


def gemini():
    from google import genai
    from google.genai import errors, types
    client = genai.Client(api_key="key-1", http_options=types.HttpOptions(base_url=f"http://{address}"))
    parts = [types.Part.from_bytes(data=JPEG, mime_type="image/jpeg"), "hi"]
    pieces = list(client.models.generate_content_stream(model="m", contents=parts))
    assert "".join(piece.text or "" for piece in pieces) == "Echo: hi 🙂 1", pieces
    last = pieces[-1]
    assert last.candidates[0].finish_reason == types.FinishReason.STOP and last.usage_metadata.prompt_token_count == 278
    tool = types.Tool(function_declarations=[types.FunctionDeclaration(name="look", parameters_json_schema=LOOK)])
    config = types.GenerateContentConfig(
        tools=[tool], automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True))
    called = client.models.generate_content(model="m", contents="use a tool", config=config)
    assert called.function_calls[0].name == "look" and called.function_calls[0].args == {"at": "door"}, called
    assert called.candidates[0].content.parts[0].thought_signature
    try:
        client.models.generate_content(model="m", contents=[types.Content(role="model", parts=[types.Part(text="x")])])
        raise SystemExit("a conversation that begins with the model was taken")
    except errors.ClientError as error:
        assert error.code == 400


def anthropic():
    import anthropic as sdk
    client = sdk.Anthropic(api_key="key-1", base_url=f"http://{address}")
    source = {"type": "base64", "media_type": "image/jpeg", "data": base64.b64encode(JPEG).decode()}
    content = [{"type": "image", "source": source}, {"type": "text", "text": "hi"}]
    with client.messages.stream(model="m", max_tokens=99, messages=[{"role": "user", "content": content}]) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == "Echo: hi 🙂 1" and final.stop_reason == "end_turn" and final.usage.input_tokens == 1020, final
    tools = [{"name": "look", "input_schema": LOOK}]
    question = {"role": "user", "content": "use a tool"}
    with client.messages.stream(model="m", max_tokens=99, tools=tools, messages=[question]) as stream:
        called = stream.get_final_message()
    block = called.content[0]
    assert called.stop_reason == "tool_use" and block.input == {"at": "door"}, called
    result = {"type": "tool_result", "tool_use_id": block.id, "content": "a door"}
    answered = client.messages.create(model="m", max_tokens=9, tools=tools, messages=[
        question, {"role": "assistant", "content": [b.model_dump(include={"type", "id", "name", "input"}) for b in called.content]},
        {"role": "user", "content": [result]}])
    assert answered.content[0].text == "Echo: a door 🙂 0", answered
    for key, messages, kind in [
        ("wrong", [question], sdk.AuthenticationError),
        ("key-1", [{"role": "assistant", "content": "x"}], sdk.BadRequestError),
        ("key-1", [question, {"role": "user", "content": [result]}], sdk.BadRequestError),
    ]:
        try:
            sdk.Anthropic(api_key=key, base_url=f"http://{address}").messages.create(model="m", max_tokens=9, messages=messages)
            raise SystemExit(f"{messages} was taken")
        except kind:
            pass


def deepgram():
    from deepgram import DeepgramClient
    from deepgram.environment import DeepgramClientEnvironment
    place = DeepgramClientEnvironment(base=f"http://{address}", production=f"ws://{address}", agent="", agent_rest="")
    client = DeepgramClient(api_key="key-1", environment=place)
    with client.listen.v1.connect(model="nova-3", encoding="linear16", sample_rate="8000", interim_results="true") as socket:
        for _ in range(100):
            socket.send_media(b"\x10\x01" * 80)
        socket.send_keep_alive()
        socket.send_finalize()
        seen = []
        while True:
            message = socket.recv()
            seen.append(message)
            if message.type == "Results" and message.from_finalize:
                break
        assert any(m.type == "Results" and not m.is_final for m in seen), seen
        assert seen[-1].channel.alternatives[0].transcript == "hello from the emulator", seen[-1]
        socket.send_close_stream()
        assert socket.recv().type == "Metadata"
    with client.speak.v1.connect(model="aura-2-thalia-en", encoding="linear16", sample_rate="24000") as socket:
        from deepgram.speak.v1.types import SpeakV1Text
        assert socket.recv().type == "Metadata"
        socket.send_text(SpeakV1Text(text="hello"))
        socket.send_flush()
        sound_bytes = 0
        while True:
            message = socket.recv()
            if isinstance(message, bytes):
                sound_bytes += len(message)
            elif message.type == "Flushed":
                break
        assert sound_bytes == 5 * 50 * 24 * 2, sound_bytes
        socket.send_close()
    text = client.listen.v1.media.transcribe_file(request=sound(), model="nova-3")
    assert text.results.channels[0].alternatives[0].transcript == "hello from the emulator", text


{"openai": openai, "gemini": gemini, "anthropic": anthropic, "deepgram": deepgram}[vendor]()
