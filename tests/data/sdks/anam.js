// Anam's own SDK for browsers in a session of the emulator. Passthrough: a voice of ours is spoken with a picture and
// falls silent when it is interrupted. Microphone: the caller is heard, written down and answered.

async function passthrough(client, ear) {
    const input = client.createAgentAudioInputStream({ encoding: "pcm_s16le", sampleRate: 24_000, channels: 1 });
    const speak = (sound) => {
        for (let at = 0; at < sound.length; at += 12_000) input.sendAudioChunk(sound.slice(at, at + 12_000).buffer);
    };
    speak(tone(440, 1, 24_000));
    input.endSequence();
    await until("the tone", () => ear.loud() > 30_000);
    const hertz = ear.hertz();
    assert(Math.abs(hertz - 440) < 5, hertz);
    await pause(700);
    const begin = ear.samples.length;
    speak(tone(700, 5, 24_000));
    await until("the second tone", () => ear.loud(begin) > 10_000);
    client.interruptPersona();
    input.endSequence();
    await pause(700);
    const quiet = ear.samples.length;
    await pause(600);
    assert(ear.samples.length > quiet + 10_000 && ear.loud(quiet) === 0, "it goes on");
    return hertz;
}

async function microphone(ear, voice, words) {
    voice.gain.value = 0.3;
    await pause(1_000);
    voice.gain.value = 0;
    await until("an answer", () => words().length === 2 && words()[1].endsWith("world.") && ear.loud() > 20_000);
    const hertz = ear.hertz();
    assert(Math.abs(hertz - 523) < 5, hertz);
    assert(words().join("|") === "user: What time is it?|persona: It is noon in the whole wide world.", words());
    return hertz;
}

prove(async () => {
    const { url, key, mode } = PARAMETERS;
    const context = new AudioContext({ sampleRate: 48_000 }), tuned = new OscillatorNode(context, { frequency: 600 });
    const voice = new GainNode(context, { gain: 0 }), caller = new MediaStreamAudioDestinationNode(context);
    tuned.connect(voice).connect(caller);
    tuned.start();
    const { AnamEvent } = anam, persona = { avatarId: "a-1", enableAudioPassthrough: mode === "passthrough" };
    const client = anam.unsafe_createClientWithApiKey(key, persona, { api: { baseUrl: url } });
    let ready = false, words = [];
    client.addListener(AnamEvent.SESSION_READY, () => { ready = true; });
    client.addListener(AnamEvent.MESSAGE_HISTORY_UPDATED, (history) => {
        words = history.map((one) => `${one.role}: ${one.content}`);
    });
    const streams = await client.stream(caller.stream);
    await until("the session", () => ready);
    const video = streams.find((stream) => stream.getVideoTracks().length);
    const audio = streams.find((stream) => stream.getAudioTracks().length);
    const ear = new Ear(audio), eye = Eye.of(video);
    await until("pictures", () => eye.pictures > 10);
    assert(eye.size().join("x") === "640x360", eye.size());
    const hertz = await (mode === "passthrough" ? passthrough(client, ear) : microphone(ear, voice, () => words));
    const pictures = eye.pictures;
    await client.stopStreaming();
    return { hertz, pictures };
});
