"""Checks, byte by byte and over plain sockets, that a server does what it is measured for.

    check.py echo PORT    echoes of all sizes, a ping, a close
    check.py room PORT    a room of twenty: every message to every member, in order, once

It knows no library: it speaks RFC 6455 itself, cuts its frames at odd places, and ends with the first
difference.
"""

import base64
import hashlib
import os
import socket
import struct
import sys
import threading

TIMEOUT = 10
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


class Client:
    def __init__(self, port, path):
        self.socket = socket.create_connection(("127.0.0.1", port), TIMEOUT)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        key = base64.b64encode(os.urandom(16))
        head = (
            f"GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
            "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            f"Sec-WebSocket-Key: {key.decode()}\r\n\r\n"
        ).encode()
        self.socket.sendall(head[:40])
        self.socket.sendall(head[40:])
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += self.read(1)
        expect(answer.startswith(b"HTTP/1.1 101 "), f"the upgrade was answered {answer!r}")
        accept = base64.b64encode(hashlib.sha1(key + GUID).digest())
        expect(accept in answer, "the answer to the key is wrong")

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
        while not first & 0x80:
            first, more = self.frame()
            expect(first & 0xF == 0, "a fragment is followed by something else")
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


def frame(opcode, payload):
    length = len(payload)
    if length < 126:
        head = struct.pack(">BB", 0x80 | opcode, 0x80 | length)
    elif length < 65536:
        head = struct.pack(">BBH", 0x80 | opcode, 0xFE, length)
    else:
        head = struct.pack(">BBQ", 0x80 | opcode, 0xFF, length)
    key = os.urandom(4)
    number = int.from_bytes(payload, "little")
    mask = int.from_bytes((key * (length // 4 + 1))[:length], "little")
    return head + key + (number ^ mask).to_bytes(length, "little")


def check_echo(port):
    client = Client(port, "/echo")
    for length in (0, 1, 20, 125, 126, 1024, 16384, 65000):
        for opcode, payload in ((BINARY, os.urandom(length)), (TEXT, b"x" * length)):
            bytes_ = frame(opcode, payload)
            for cut in (1, 3, len(bytes_) // 2, len(bytes_)):
                sender = threading.Thread(target=client.send, args=(bytes_[:cut], bytes_[cut:]))
                sender.start()
                expect(client.receive() == (opcode, payload), f"an echo of {length} bytes differs")
                sender.join()
    messages = [os.urandom(20 + n) for n in range(64)]
    client.send(b"".join(frame(BINARY, message) for message in messages))
    for message in messages:
        expect(client.receive() == (BINARY, message), "an echo of several at once differs")
    client.send(frame(PING, b"there?"))
    expect(client.receive() == (PONG, b"there?"), "a ping is not answered")
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
        case ["room", port]:
            check_room(int(port))
        case _:
            sys.exit(__doc__)


main(sys.argv[1:])
