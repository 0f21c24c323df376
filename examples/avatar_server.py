#!/usr/bin/env python3
"""A face for Eyeline's agents on a machine of your own: the `timed` protocol of docs/AVATAR_WEBSOCKET.md.

    python3 examples/avatar_server.py --port 8700

Python 3 and FFmpeg with libx264, nothing else; without FFmpeg pictures go out as plain RGB. It draws a simple face whose
mouth follows the loudness, and plays the sound back beside it. YOUR talking-head program goes into ONE place: the class
TalkingHead below. It gets 40 ms of sound and gives the picture that belongs to it.

It speaks plain ws: keep it on loopback or a private network, or put a TLS proxy in front.
"""

import argparse
import base64
import hashlib
import json
import math
import shutil
import socket
import socketserver
import struct
import subprocess
import sys
import threading
import time
from array import array
from collections import deque

VERSION = 1
FPS = 25
BLOCK_US = 1_000_000 // FPS
LONGEST_WAIT_S = 120  # of sound that is not played yet
LARGEST_MESSAGE = 1 << 20
SOUND, PICTURE = 1, 2
HEADER = struct.Struct("!BBHIq")  # kind, flags (1: key picture), spare, turn, time in microseconds


# --------------------------------------------------------------------------- the one place for a talking-head program
class TalkingHead:
    """Makes one picture of every 40 ms of sound. Replace `picture` by your model; keep its pace: 25 a second."""

    def __init__(self, width, height, avatar):
        # Load the model here, with the face named `avatar`; the session is ready when this returns.
        self.width, self.height = width, height
        self.drawn = {}

    def picture(self, samples, listening):
        """RGB, width * height * 3 bytes. `samples`: array of 16-bit sound, silence between turns."""
        loud = math.sqrt(sum(sample * sample for sample in samples) / len(samples)) if samples else 0
        mouth = min(6, int(loud / 400))  # 0: closed
        if (mouth, listening) not in self.drawn:
            self.drawn[mouth, listening] = self.draw(mouth, listening)
        return self.drawn[mouth, listening]

    def draw(self, mouth, listening):
        width, height = self.width, self.height
        rows = []
        for y in range(height):
            row, v = bytearray(bytes((36, 52, 84)) * width), (y - height * 0.5) / (height * 0.42)

            def fill(half, middle, colour):
                first = max(0, int(width * middle - half))
                last = min(width, int(width * middle + half))
                row[3 * first : 3 * last] = bytes(colour) * max(0, last - first)

            if abs(v) < 1:
                fill(height * 0.33 * math.sqrt(1 - v * v), 0.5, (214, 168, 132))
            if abs(y - height * 0.4) < height * (0.035 if listening else 0.022):
                for eye in (0.5 - 0.12 * height / width, 0.5 + 0.12 * height / width):
                    fill(height * 0.035, eye, (30, 30, 30))
            if abs(y - height * 0.7) < height * (0.008 + 0.015 * mouth):
                fill(height * 0.12, 0.5, (250, 250, 250) if mouth else (90, 30, 30))
            rows.append(bytes(row))
        return b"".join(rows)


# ------------------------------------------------------------------------------------------------- pictures as H.264
class Encoder:
    """One FFmpeg; its pictures come out of `given(at, turn, key, annex_b)`. A new one begins with a key picture."""

    def __init__(self, width, height, given):
        self.width, self.height, self.given = width, height, given
        self.lock = threading.Lock()
        self.start()

    def start(self):
        self.waiting = deque()
        self.process = subprocess.Popen(
            ["ffmpeg", "-loglevel", "fatal", "-probesize", "32", "-analyzeduration", "0", "-f", "rawvideo"]
            + ["-pixel_format", "rgb24", "-video_size", f"{self.width}x{self.height}", "-framerate", str(FPS)]
            + ["-i", "pipe:0", "-c:v", "libx264", "-preset", "ultrafast", "-tune", "zerolatency", "-threads", "1"]
            + ["-profile:v", "baseline", "-level", "3.1", "-pix_fmt", "yuv420p", "-g", str(4 * FPS), "-bf", "0"]
            + ["-crf", "26", "-maxrate", "1500k", "-bufsize", "750k", "-flush_packets", "1"]
            + ["-f", "flv", "-flvflags", "no_duration_filesize", "pipe:1"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        threading.Thread(target=self.read, args=(self.process, self.waiting), daemon=True).start()

    def encode(self, at, turn, rgb):
        with self.lock:
            self.waiting.append((at, turn))
            try:
                self.process.stdin.write(rgb)
                self.process.stdin.flush()
            except (BrokenPipeError, ValueError):
                pass

    def restart(self):
        """Somebody needs a key picture: FFmpeg makes one at its beginning only."""
        with self.lock:
            self.end()
            self.start()

    def end(self):
        self.process.kill()
        self.process.wait()

    def read(self, process, waiting):
        """FLV, because it says how long every picture is: tags with H.264 in them behind their lengths."""
        sets, out = b"", process.stdout
        out.read(13)
        while True:
            head = out.read(11)
            if len(head) < 11:
                return
            body = out.read(int.from_bytes(head[1:4], "big"))
            out.read(4)
            if head[0] != 9 or len(body) < 5:
                continue
            if body[1] == 0:  # the parameter sets
                sets, at = b"", 11
                for _ in range(2):
                    length = int.from_bytes(body[at : at + 2], "big")
                    sets += b"\0\0\0\1" + body[at + 2 : at + 2 + length]
                    at += 3 + length
            elif body[1] == 1:
                units, at = [], 5
                while at + 4 <= len(body):
                    length = int.from_bytes(body[at : at + 4], "big")
                    units.append(b"\0\0\0\1" + body[at + 4 : at + 4 + length])
                    at += 4 + length
                key = body[0] >> 4 == 1
                if waiting and process is self.process:
                    self.given(*waiting.popleft(), key, (sets if key else b"") + b"".join(units))


# ---------------------------------------------------------------------------------------------------------- WebSocket
class WebSocket:
    """RFC 6455, the server's side of it."""

    def __init__(self, connection):
        self.connection, self.reader, self.lock = connection, connection.makefile("rb"), threading.Lock()

    def open(self, key):
        """Answers the handshake; False where it is none, or the key is wrong."""
        lines = []
        while (line := self.reader.readline(4096).strip()) and len(lines) < 64:
            lines.append(line.decode("latin-1"))
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        wanted = headers.get("sec-websocket-key", "")
        if key and headers.get("authorization") != f"Bearer {key}":
            self.connection.sendall(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n")
            return False
        if not wanted:
            self.connection.sendall(b"HTTP/1.1 426 Upgrade Required\r\nContent-Length: 0\r\n\r\n")
            return False
        proof = hashlib.sha1(wanted.encode() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
        self.connection.sendall(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + base64.b64encode(proof) + b"\r\n\r\n"
        )
        return True

    def exactly(self, count):
        data = self.reader.read(count)
        if len(data) < count:
            raise ConnectionError("the other side is gone")
        return data

    def receive(self):
        """The next message: text as str, binary as bytes; None: it says farewell."""
        whole, kind = b"", 0
        while True:
            first, second = self.exactly(2)
            length = second & 127
            if length > 125:
                length = int.from_bytes(self.exactly(2 if length == 126 else 8), "big")
            if len(whole) + length > LARGEST_MESSAGE or not second & 128:
                raise ConnectionError("too long, or not masked")
            mask = self.exactly(4)
            data = self.exactly(length)
            mask = (mask * (length // 4 + 1))[:length]
            data = (int.from_bytes(data, "big") ^ int.from_bytes(mask, "big")).to_bytes(length, "big")
            code = first & 15
            if code == 8:
                self.send(8, data[:2])
                return None
            if code == 9:
                self.send(10, data)
            elif code < 3:
                whole, kind = whole + data, code or kind
                if first & 128:
                    return whole.decode() if kind == 1 else whole

    def send(self, code, data):
        length = len(data)
        if length < 126:
            head = bytes((128 | code, length))
        elif length < 65536:
            head = bytes((128 | code, 126)) + length.to_bytes(2, "big")
        else:
            head = bytes((128 | code, 127)) + length.to_bytes(8, "big")
        with self.lock:
            self.connection.sendall(head + data)

    def say(self, **words):
        self.send(1, json.dumps(words).encode())

    def give(self, kind, turn, at, data, key=False):
        self.send(2, HEADER.pack(kind, int(key), 0, turn, at) + data)


# ------------------------------------------------------------------------------------------------------------ session
class Session:
    def __init__(self, socket, hello, options):
        self.socket, self.over, self.lock = socket, threading.Event(), threading.Lock()
        self.rate, self.listening = hello["rate"], False
        self.block = self.rate // FPS
        self.waiting, self.waiting_samples = deque(), 0  # (turn, samples), or (turn, None): the turn is complete
        self.turn, self.cut, self.heard = 0, 0, 0  # heard: the newest turn of which sound came
        wanted = hello.get("pictures", [])
        coded = "h264" in wanted and shutil.which("ffmpeg")
        self.coding = "h264" if coded else "rgb" if "rgb" in wanted else None
        self.width = min(hello.get("width", 320), options.width) & ~1
        self.height = min(hello.get("height", 240), options.height) & ~1
        name = f"{socket.connection.getpeername()[1]}-{int(time.time())}"
        socket.say(type="hello", version=VERSION, session=name, rate=self.rate, picture=self.coding)
        time.sleep(options.start_seconds)
        self.head = TalkingHead(self.width, self.height, hello.get("avatar", ""))
        self.encoder = Encoder(self.width, self.height, self.coded) if self.coding == "h264" else None
        threading.Thread(target=self.play, daemon=True).start()
        socket.say(type="ready")

    def coded(self, at, turn, key, data):
        try:
            self.socket.give(PICTURE, turn, at, data, key)
        except OSError:
            self.over.set()

    def sound(self, message):
        kind, _, _, turn, _ = HEADER.unpack_from(message)
        samples = array("h", message[HEADER.size :])
        if sys.byteorder == "big":
            samples.byteswap()
        with self.lock:
            late = self.waiting_samples > LONGEST_WAIT_S * self.rate
            if kind == SOUND and turn > self.cut and not late:
                self.heard = max(self.heard, turn)
                self.waiting.append((turn, samples))
                self.waiting_samples += len(samples)

    def told(self, words):
        kind, turn = words.get("type"), words.get("turn", 0)
        if kind == "end":
            with self.lock:
                self.waiting.append((turn, None))
        elif kind == "interrupt":
            with self.lock:
                self.cut = max(self.cut, turn)
                self.waiting = deque(item for item in self.waiting if item[0] > turn)
                self.waiting_samples = sum(len(samples or ()) for _, samples in self.waiting)
                talking, self.turn = self.turn and self.turn <= turn, 0 if self.turn <= turn else self.turn
            if talking:
                self.socket.say(type="ended", turn=turn, interrupted=True)
            self.socket.say(type="interrupted", turn=turn)
        elif kind == "listening":
            self.listening = bool(words.get("on"))
        elif kind == "key" and self.encoder:
            self.encoder.restart()

    def next_block(self):
        """40 ms of what is to be said, and what is to be told of it: before the sound, and after it."""
        samples, before, after = array("h"), [], []
        with self.lock:
            while self.waiting and len(samples) < self.block:
                turn, first = self.waiting[0]
                if self.turn not in (0, turn) or (first is None and self.turn == turn):
                    after.append(dict(type="ended", turn=self.turn, interrupted=False))
                    self.turn = 0
                if first is None:
                    self.waiting.popleft()
                    break
                if samples and turn != self.turn:
                    break  # the next turn begins with the next block
                if turn != self.turn:
                    self.turn = turn
                    before.append(dict(type="speaking", turn=turn))
                wanted = self.block - len(samples)
                samples.extend(first[:wanted])
                self.waiting_samples -= min(wanted, len(first))
                self.waiting[0] = (turn, first[wanted:])
                if len(first) <= wanted:
                    self.waiting.popleft()
            turn = self.turn if samples else 0
            if after and samples:
                turn = after[-1]["turn"]
        samples.extend([0] * (self.block - len(samples)))
        return turn, samples, before, after

    def play(self):
        """The clock: every 40 ms a block of sound and its picture, both with the same time."""
        begun, count = time.monotonic(), 0
        try:
            while not self.over.wait(max(0, begun + count / FPS - time.monotonic())):
                at = count * BLOCK_US
                turn, samples, before, after = self.next_block()
                for words in before:
                    self.socket.say(**words)
                if 0 < turn <= self.cut:  # cut since it was taken
                    turn, samples = 0, array("h", bytes(2 * self.block))
                data = array("h", samples)
                if sys.byteorder == "big":
                    data.byteswap()
                self.socket.give(SOUND, turn, at, data.tobytes())
                if self.coding:
                    rgb = self.head.picture(samples, self.listening)
                    if self.encoder:
                        self.encoder.encode(at, turn, rgb)
                    else:
                        size = struct.pack("!HH", self.width, self.height)
                        self.socket.give(PICTURE, turn, at, size + rgb, key=True)
                for words in after:
                    self.socket.say(**words)
                count += 1
        except OSError:
            pass
        self.over.set()

    def end(self):
        self.over.set()
        if self.encoder:
            self.encoder.end()


class Connection(socketserver.BaseRequestHandler):
    def handle(self):
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.request.settimeout(30)  # Eyeline pings a connection on which nothing comes
        peer, session, options = WebSocket(self.request), None, self.server.options
        try:
            if not peer.open(options.key):
                return
            hello = json.loads(peer.receive() or "{}")
            if VERSION not in hello.get("versions", []):
                return self.refuse(peer, "version", f"this server speaks version {VERSION}")
            if not self.server.room.acquire(blocking=False):
                return self.refuse(peer, "busy", "all faces are in use")
            try:
                session = Session(peer, hello, options)
                print("session for call", hello.get("call"), flush=True)
                while (message := peer.receive()) is not None:
                    if isinstance(message, bytes):
                        session.sound(message)
                        continue
                    words = json.loads(message)
                    if words.get("type") == "bye":
                        peer.say(type="bye", reason=words.get("reason", ""))
                        break
                    session.told(words)
            finally:
                self.server.room.release()
        except (OSError, ValueError, KeyError, AttributeError, TypeError, struct.error) as error:
            print("session ends:", error, flush=True)
        finally:
            if session:
                session.end()

    def refuse(self, peer, reason, text):
        peer.say(type="refused", reason=reason, text=text)
        peer.send(8, struct.pack("!H", 1000))


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = daemon_threads = True


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--host", default="127.0.0.1")
    options.add_argument("--port", type=int, default=8700, help="0: any free one, told on the first line")
    options.add_argument("--key", default="", help="clients must send it as a bearer's token")
    options.add_argument("--width", type=int, default=320)
    options.add_argument("--height", type=int, default=240)
    options.add_argument("--sessions", type=int, default=4, help="at a time; one more is refused as busy")
    options.add_argument("--start-seconds", type=float, default=0, help="pretend that a model loads so long")
    options = options.parse_args()
    with Server((options.host, options.port), Connection) as server:
        server.options, server.room = options, threading.Semaphore(options.sessions)
        print("listening on port", server.server_address[1], flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
