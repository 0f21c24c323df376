#!/usr/bin/env python3
"""OpenAI's two speech requests in front of programs that Debian and PyPI have: PocketSphinx hears, flite speaks.

    pip install pocketsphinx==5.1.1        # its English model is in the package
    apt-get install flite
    python3 examples/local-speech-server.py --port 8000

A shim of ours, for trying a set-up without the internet and for measuring; not a product. PocketSphinx understands
little of what people say on a telephone: use a Whisper server for callers. It is for loopback and asks for no key.

    POST /v1/audio/transcriptions   multipart: file (WAV, 16 bit, mono), model, response_format json or text
    POST /v1/audio/speech           JSON: input, voice (one of `flite -lv`), response_format pcm (24 kHz) or wav
"""

import argparse
import email.parser
import email.policy
import io
import json
import subprocess
import sys
import tempfile
import threading
import wave
from array import array
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

LARGEST_BODY = 16 << 20
LONGEST_TEXT = 4096
HEARING_HZ = 16_000
SPEAKING_HZ = 24_000
FLITE_LIMIT_S = 20


def resampled(samples, rate, wanted):
    """Straight lines between the samples: good enough for speech whose upper half is empty anyway."""
    if rate == wanted or not samples:
        return samples
    last, count = len(samples) - 1, len(samples) * wanted // rate
    made = array("h", bytes(2 * count))
    for n in range(count):
        at, rest = divmod(n * rate, wanted)
        here, there = samples[at], samples[min(at + 1, last)]
        made[n] = here + (there - here) * rest // wanted
    return made


def read_wav(data):
    with wave.open(io.BytesIO(data)) as wav:
        if wav.getnchannels() != 1 or wav.getsampwidth() != 2:
            raise ValueError("send 16-bit mono WAV")
        samples = array("h")
        samples.frombytes(wav.readframes(wav.getnframes()))
        return wav.getframerate(), samples


class Hearing:
    """One decoder; requests wait for one another."""

    def __init__(self):
        from pocketsphinx import Decoder

        self.decoder = Decoder(samprate=HEARING_HZ, loglevel="FATAL")
        self.lock = threading.Lock()

    def words(self, rate, samples):
        samples = resampled(samples, rate, HEARING_HZ)
        with self.lock:
            self.decoder.start_utt()
            self.decoder.process_raw(samples.tobytes(), full_utt=True)
            self.decoder.end_utt()
            found = self.decoder.hyp()
            return found.hypstr if found else ""


def speak(text, voice):
    """flite's words as samples at 24 kHz."""
    with tempfile.NamedTemporaryFile(suffix=".wav") as file:
        # Text that begins with a dash is no option: it comes by a file.
        with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as words:
            words.write(text)
            words.flush()
            command = ["flite", "-voice", voice, "-f", words.name, "-o", file.name]
            subprocess.run(command, check=True, timeout=FLITE_LIMIT_S, capture_output=True)
        rate, samples = read_wav(file.read())
        return resampled(samples, rate, SPEAKING_HZ)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hearing = None
    voices = ()

    def do_POST(self):
        length = int(self.headers.get("content-length") or 0)
        if not 0 < length <= LARGEST_BODY:
            self.close_connection = True
            return self.refuse(411 if length == 0 else 413, "say how long the body is, at most 16 MiB")
        body = self.rfile.read(length)
        try:
            if self.path == "/v1/audio/transcriptions":
                return self.transcribe(body)
            if self.path == "/v1/audio/speech":
                return self.speech(body)
        except (ValueError, KeyError, EOFError, wave.Error) as error:
            return self.refuse(400, str(error))
        except (subprocess.SubprocessError, OSError) as error:
            return self.refuse(500, f"flite: {error}")
        return self.refuse(404, f"there is no {self.path}")

    def do_HEAD(self):
        self.reply(200, "text/plain", b"")

    def transcribe(self, body):
        head = f"content-type: {self.headers['content-type']}\r\n\r\n".encode()
        message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head + body)
        parts = {}
        for part in message.iter_parts():
            parts[part.get_param("name", header="content-disposition")] = part.get_payload(decode=True)
        if "file" not in parts:
            raise ValueError("there is no file")
        rate, samples = read_wav(parts["file"])
        text = self.hearing.words(rate, samples)
        if parts.get("response_format", b"json").strip() == b"text":
            return self.reply(200, "text/plain; charset=utf-8", text.encode())
        return self.json(200, {"text": text})

    def speech(self, body):
        asked = json.loads(body)
        text, voice = str(asked["input"])[:LONGEST_TEXT], asked.get("voice")
        samples = speak(text, voice if voice in self.voices else "slt")
        if asked.get("response_format", "pcm") == "pcm":
            return self.reply(200, f"audio/pcm;rate={SPEAKING_HZ}", samples.tobytes())
        file = io.BytesIO()
        with wave.open(file, "wb") as wav:
            wav.setnchannels(1)
            wav.setsampwidth(2)
            wav.setframerate(SPEAKING_HZ)
            wav.writeframes(samples.tobytes())
        return self.reply(200, "audio/wav", file.getvalue())

    def refuse(self, status, why):
        self.json(status, {"error": {"message": why, "type": "invalid_request_error", "code": None}})

    def json(self, status, value):
        self.reply(status, "application/json", json.dumps(value).encode())

    def reply(self, status, kind, body):
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--bind", default="127.0.0.1")
    arguments.add_argument("--port", type=int, default=8000)
    arguments = arguments.parse_args()
    listed = subprocess.run(["flite", "-lv"], check=True, capture_output=True, text=True).stdout
    Handler.voices = tuple(listed.partition(":")[2].split())
    Handler.hearing = Hearing()
    print(f"listening on http://{arguments.bind}:{arguments.port}/v1", file=sys.stderr)
    ThreadingHTTPServer((arguments.bind, arguments.port), Handler).serve_forever()


if __name__ == "__main__":
    main()
