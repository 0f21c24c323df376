// LiveAvatar's own SDK for browsers in a session of the emulators: the face is seen and heard in its room, speaks what
// is sent over the command channel and falls silent when it is interrupted.

prove(async () => {
    const { url, token } = PARAMETERS;
    const { LiveAvatarSession, SessionEvent, AgentEventsEnum } = LiveAvatarSDK;
    const session = new LiveAvatarSession(token, { apiUrl: url });
    let stream = false, started = 0, ended = 0;
    session.on(SessionEvent.SESSION_STREAM_READY, () => { stream = true; });
    session.on(AgentEventsEnum.AVATAR_SPEAK_STARTED, () => { started += 1; });
    session.on(AgentEventsEnum.AVATAR_SPEAK_ENDED, () => { ended += 1; });
    await session.start();
    await until("the stream", () => stream);
    const element = document.createElement("video");
    document.documentElement.append(element);
    session.attach(element);
    const eye = new Eye(element);
    await until("pictures", () => eye.pictures > 10);
    assert(eye.size().join("x") === "640x360", eye.size());
    const ear = new Ear(new MediaStream(element.srcObject.getAudioTracks()));
    await session.keepAlive();
    await pause(300);

    session.repeatAudio(base64(tone(440, 1, 24_000)));
    await until("the tone", () => ear.loud() > 30_000 && started === 1 && ended === 1);
    const hertz = ear.hertz();
    assert(Math.abs(hertz - 440) < 5, hertz);
    await pause(500);
    const begin = ear.samples.length;
    session.repeatAudio(base64(tone(700, 5, 24_000)));
    await until("the second tone", () => ear.loud(begin) > 10_000 && started === 2);
    session.interrupt();
    await pause(700);
    const quiet = ear.samples.length;
    await pause(600);
    assert(ear.samples.length > quiet + 10_000 && ear.loud(quiet) === 0, "it goes on");
    const pictures = eye.pictures;
    await session.stop();
    await pause(300);
    return { hertz, pictures };
});
