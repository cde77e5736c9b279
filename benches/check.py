"""Checks, byte by byte and over plain sockets, that a server does what it is measured for.

    check.py echo PORT       echoes of all sizes, a ping, a close
    check.py tls PORT CA     the same over TLS 1.3 and 1.2, with the certificates in the file CA trusted
    check.py deflate PORT    echoes with permessage-deflate, both ways
    check.py room PORT       a room of twenty: every message to every member, in order, once

It knows no library of WebSockets: it speaks RFC 6455 and RFC 7692 itself, cuts its frames at odd places,
and ends with the first difference.
"""

import base64
import hashlib
import json
import os
import random
import socket
import ssl
import struct
import sys
import threading
import zlib

TIMEOUT = 10
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


class Client:
    def __init__(self, port, path, tls=None, offer=None):
        self.socket = socket.create_connection(("127.0.0.1", port), TIMEOUT)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls:
            self.socket = tls.wrap_socket(self.socket, server_hostname="127.0.0.1")
        extensions = f"Sec-WebSocket-Extensions: {offer}\r\n" if offer else ""
        key = base64.b64encode(os.urandom(16))
        head = (
            f"GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
            "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            f"{extensions}Sec-WebSocket-Key: {key.decode()}\r\n\r\n"
        ).encode()
        self.socket.sendall(head[:40])
        self.socket.sendall(head[40:])
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += self.read(1)
        expect(answer.startswith(b"HTTP/1.1 101 "), f"the upgrade was answered {answer!r}")
        accept = base64.b64encode(hashlib.sha1(key + GUID).digest())
        expect(accept in answer, "the answer to the key is wrong")
        fields = [line.partition(b":") for line in answer.split(b"\r\n")]
        named = [v for n, _, v in fields if n.lower() == b"sec-websocket-extensions"]
        self.extensions = b",".join(named).strip().decode()

    def read(self, count):
        got = bytearray()
        while len(got) < count:
            piece = self.socket.recv(count - len(got))
            expect(piece, "the server ended the connection")
            got += piece
        return bytes(got)

    def receive(self):
        """A message, put together from its fragments, or a control frame: its opcode and payload."""
        first, payload = self.frame()
        opcode = first & 0xF
        expect(opcode != 0, "a continuation of nothing")
        expect(first & 0x30 == 0, "reserved bits are set")
        self.is_compressed = first & 0x40 != 0
        while not first & 0x80:
            first, more = self.frame()
            expect(first & 0x7F == 0, "a fragment is followed by something else")
            payload += more
        return opcode, payload

    def frame(self):
        first, second = self.read(2)
        length = second & 0x7F
        if length == 126:
            (length,) = struct.unpack(">H", self.read(2))
        elif length == 127:
            (length,) = struct.unpack(">Q", self.read(8))
        expect(second < 0x80, "the server masks")
        return first, self.read(length)

    def send(self, *pieces):
        for piece in pieces:
            self.socket.sendall(piece)


def expect(condition, otherwise):
    if not condition:
        sys.exit(f"check: {otherwise}")


def frame(opcode, payload, fin=0x80):
    length = len(payload)
    if length < 126:
        head = struct.pack(">BB", fin | opcode, 0x80 | length)
    elif length < 65536:
        head = struct.pack(">BBH", fin | opcode, 0xFE, length)
    else:
        head = struct.pack(">BBQ", fin | opcode, 0xFF, length)
    key = os.urandom(4)
    number = int.from_bytes(payload, "little")
    mask = int.from_bytes((key * (length // 4 + 1))[:length], "little")
    return head + key + (number ^ mask).to_bytes(length, "little")


def check_echo(port, tls=None):
    client = Client(port, "/echo", tls)
    for length in (0, 1, 20, 125, 126, 1024, 16384, 65000):
        for opcode, payload in ((BINARY, os.urandom(length)), (TEXT, b"x" * length)):
            bytes_ = frame(opcode, payload)
            for cut in (1, 3, len(bytes_) // 2, len(bytes_)):
                sender = threading.Thread(target=client.send, args=(bytes_[:cut], bytes_[cut:]))
                # A TLS socket must not be used by two threads; so much fits into its buffers.
                sender.run() if tls else sender.start()
                expect(client.receive() == (opcode, payload), f"an echo of {length} bytes differs")
                tls or sender.join()
    messages = [os.urandom(20 + n) for n in range(64)]
    client.send(b"".join(frame(BINARY, message) for message in messages))
    for message in messages:
        expect(client.receive() == (BINARY, message), "an echo of several at once differs")
    client.send(frame(PING, b"there?"))
    expect(client.receive() == (PONG, b"there?"), "a ping is not answered")
    client.send(frame(CLOSE, b"\x03\xe8"))
    expect(client.receive()[0] == CLOSE, "a close is not answered")


def check_tls(port, ca):
    for version in (ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_2):
        tls = ssl.create_default_context(cafile=ca)
        tls.minimum_version = tls.maximum_version = version
        check_echo(port, tls)


def check_deflate(port):
    offer = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
    client = Client(port, "/echo", offer=offer)
    expect(client.extensions.startswith("permessage-deflate"), "the offer is not accepted")
    expect("server_no_context_takeover" in client.extensions, "the answer lacks what was asked for")
    rng, compressed = random.Random(7), 0
    for length in (0, 1, 20, 1024, 4096, 40000):
        quotes = [{"n": n, "bid": rng.randrange(10**6)} for n in range(length // 20)]
        text = json.dumps(quotes).encode()
        packer = zlib.compressobj(6, zlib.DEFLATED, -15)
        packed = packer.compress(text) + packer.flush(zlib.Z_SYNC_FLUSH)
        expect(packed.endswith(b"\0\0\xff\xff"), "zlib has no sync flush")
        packed = packed[:-4]
        half = len(packed) // 2
        # As it is, compressed, and compressed in two fragments.
        pieces = frame(TEXT | 0x40, packed[:half], fin=0) + frame(0, packed[half:])
        for sent in (frame(TEXT, text), frame(TEXT | 0x40, packed), pieces):
            client.send(sent[:9], sent[9:])
            opcode, payload = client.receive()
            if client.is_compressed:
                compressed += 1
                payload = zlib.decompressobj(-15).decompress(payload + b"\0\0\xff\xff")
            expect((opcode, payload) == (TEXT, text), f"an echo of {len(text)} bytes differs")
    expect(compressed >= 6, "long texts are not compressed")
    client.send(frame(CLOSE, b"\x03\xe8"))
    expect(client.receive()[0] == CLOSE, "a close is not answered")


def check_room(port):
    members = [Client(port, "/room/one") for _ in range(20)]
    other = Client(port, "/room/two")
    # Whether a member is in its room shows only in what it gets.
    for client in (*members, other):
        client.send(frame(PING, b"in"))
        expect(client.receive() == (PONG, b"in"), "a ping is not answered")
    messages = [os.urandom(100 if n % 10 else 30000) for n in range(100)]
    whole = b"".join(frame(BINARY, message) for message in messages)
    sender = threading.Thread(target=members[0].send, args=(whole[:777], whole[777:]))
    sender.start()
    for client in members:
        for message in messages:
            expect(client.receive() == (BINARY, message), "a member got something else")
    sender.join()
    for client in members[:10]:
        client.socket.close()
    members[11].send(frame(TEXT, b"who is left"))
    for client in members[10:]:
        expect(client.receive() == (TEXT, b"who is left"), "a member that stayed got something else")
    other.send(frame(TEXT, b"alone"))
    expect(other.receive() == (TEXT, b"alone"), "rooms are not apart")


def main(arguments):
    match arguments:
        case ["echo", port]:
            check_echo(int(port))
        case ["tls", port, ca]:
            check_tls(int(port), ca)
        case ["deflate", port]:
            check_deflate(int(port))
        case ["room", port]:
            check_room(int(port))
        case _:
            sys.exit(__doc__)


main(sys.argv[1:])
