// LiveKit's own SDK for browsers in a room of the emulator: what the worker publishes is seen and heard, speech by a
// stream of bytes is played, the procedures go both ways.

prove(async () => {
    const { url, token, avatar } = PARAMETERS;
    const { Room, RoomEvent } = LivekitClient;
    const room = new Room(), tracks = {}, told = [];
    room.on(RoomEvent.TrackSubscribed, (track, _publication, participant) => {
        assert(participant.identity === avatar, participant.identity);
        tracks[track.kind] = track;
    });
    for (const method of ["lk.playback_started", "lk.playback_finished"]) {
        room.registerRpcMethod(method, async (data) => {
            assert(data.callerIdentity === avatar, data);
            told.push([method, data.payload]);
            return "ok";
        });
    }
    await room.connect(url, token);
    await until("both tracks", () => tracks.audio && tracks.video);
    const ear = new Ear(new MediaStream([tracks.audio.mediaStreamTrack]));
    const eye = Eye.of(new MediaStream([tracks.video.mediaStreamTrack]));
    await until("pictures", () => eye.pictures > 10);
    assert(eye.size().join("x") === "640x360", eye.size());

    const speak = async (sound) => {
        const writer = await room.localParticipant.streamBytes({
            name: "AUDIO_1", topic: "lk.audio_stream", destinationIdentities: [avatar],
            attributes: { sample_rate: "24000", num_channels: "1" },
        });
        await writer.write(new Uint8Array(sound.buffer));
        await writer.close();
    };
    await speak(tone(440, 1, 24_000));
    await until("the end of the turn", () => told.length === 2);
    assert(told[0][0] === "lk.playback_started" && told[1][0] === "lk.playback_finished", told);
    assert(JSON.parse(told[1][1]).interrupted === false, told);
    await until("the tone", () => ear.loud() > 30_000);
    const hertz = ear.hertz();
    assert(Math.abs(hertz - 440) < 5, hertz);

    await pause(500);
    const begin = ear.samples.length;
    await speak(tone(700, 5, 24_000));
    await until("the second tone", () => ear.loud(begin) > 10_000);
    await room.localParticipant.performRpc({ destinationIdentity: avatar, method: "lk.clear_buffer", payload: "" });
    await until("the interruption", () => told.length === 4);
    assert(JSON.parse(told[3][1]).interrupted === true, told);
    await pause(700);
    const quiet = ear.samples.length;
    await pause(600);
    assert(ear.samples.length > quiet + 10_000 && ear.loud(quiet) === 0, "it goes on");
    const pictures = eye.pictures;
    await room.disconnect();
    return { hertz, pictures };
});
