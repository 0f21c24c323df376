// What the scripts in a browser share: an ear and an eye for what a peer connection brings, and the word at the end.

// The package `events` is written for Node; LiveAvatar's script looks for it under this name.
var module = { exports: {} };
Object.defineProperty(globalThis, "events$1", { get: () => module.exports });

// What SDKs complain of, told where a proof fails.
const complaints = [];
for (const kind of ["warn", "error"]) {
    console[kind] = (...said) => complaints.push([kind, ...said.map(String)].join(" ").slice(0, 400));
}
addEventListener("unhandledrejection", (event) => complaints.push("nobody took " + event.reason));

const pause = (ms) => new Promise((done) => setTimeout(done, ms));

function assert(true_, ...said) {
    if (!true_) throw new Error(said.map((one) => typeof one === "string" ? one : JSON.stringify(one)).join(" "));
}

async function until(what, true_, seconds = 15) {
    for (let tries = 0; tries < seconds * 50; tries++) {
        const found = true_();
        if (found) return found;
        await pause(20);
    }
    throw new Error("it does not happen: " + what);
}

// Sound of a sine, 16 bits.
function tone(hertz, seconds, rate) {
    const step = hertz * 2 * Math.PI / rate;
    return Int16Array.from({ length: rate * seconds }, (_, at) => 8_000 * Math.sin(at * step));
}

function base64(samples) {
    let text = "";
    for (const byte of new Uint8Array(samples.buffer)) text += String.fromCharCode(byte);
    return btoa(text);
}

// Keeps what is heard. A browser decodes a peer's sound only while an element plays it.
class Ear {
    constructor(stream) {
        this.samples = [];
        this.player = new Audio();
        this.player.srcObject = stream;
        this.player.play();
        this.context = new AudioContext({ sampleRate: 48_000 });
        const source = this.context.createMediaStreamSource(stream);
        const tap = this.context.createScriptProcessor(2_048, 1, 1);
        tap.onaudioprocess = (event) => {
            for (const sample of event.inputBuffer.getChannelData(0)) this.samples.push(sample);
        };
        source.connect(tap);
        tap.connect(this.context.destination);
    }

    static loud(sample) {
        return Math.abs(sample) > 0.05;
    }

    loud(begin = 0) {
        return this.samples.slice(begin).filter(Ear.loud).length;
    }

    // Of what is loud.
    hertz(begin = 0) {
        const heard = this.samples.slice(begin);
        const sound = heard.slice(heard.findIndex(Ear.loud), heard.findLastIndex(Ear.loud));
        let rises = 0;
        for (let at = 1; at < sound.length; at++) rises += sound[at - 1] < 0 && sound[at] >= 0;
        return rises * 48_000 / sound.length;
    }
}

// Width, height and how many pictures were shown.
class Eye {
    constructor(element) {
        this.element = element;
        this.pictures = 0;
        const shown = () => {
            this.pictures += 1;
            element.requestVideoFrameCallback(shown);
        };
        element.requestVideoFrameCallback(shown);
    }

    static of(stream) {
        const element = document.createElement("video");
        element.muted = true;
        element.srcObject = stream;
        document.documentElement.append(element);
        element.play();
        return new Eye(element);
    }

    size() {
        return [this.element.videoWidth, this.element.videoHeight];
    }
}

const tell = (verdict) => fetch("/verdict", { method: "POST", body: JSON.stringify(verdict) });

// Runs the proof and tells what it returns.
function prove(proof) {
    proof().then(tell, (error) => tell({ error: [error.stack || error, ...complaints].join("\n") }));
}
