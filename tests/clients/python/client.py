"""Drives the gateway with PyPI's `websockets`, a client that knows nothing of it.

Usage: client.py ws://127.0.0.1:PORT [PREFIX]   (PREFIX: only checks whose names begin so)
"""

import asyncio
import json
import sys
import traceback

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory

DEADLINE_S = 20
MIB = 1024 * 1024
CHECKS = []
BASE = sys.argv[1]
PREFIX = sys.argv[2] if len(sys.argv) > 2 else ""


def check(name):
    """Registers a check under the name that its line shows."""

    def register(function):
        CHECKS.append((name, function))
        return function

    return register


def open_ws(path, subprotocols=None):
    return connect(BASE + path, subprotocols=subprotocols, max_size=8 * MIB, proxy=None)


async def receive(ws):
    return await asyncio.wait_for(ws.recv(), DEADLINE_S)


async def receive_json(ws):
    message = await receive(ws)
    assert isinstance(message, str), "JSON comes as text"
    return json.loads(message)


async def call(ws, **command):
    """Sends a command and reads its answer, which must come next."""
    command["id"] = "call"
    await ws.send(json.dumps(command))
    answer = await receive_json(ws)
    assert answer.get("id") == "call", answer
    return answer


async def ok(ws, **command):
    answer = await call(ws, **command)
    assert answer["type"] == "ok", answer
    return answer


async def close_code(ws):
    """Reads to the end of the connection; the code that the gateway sent."""
    try:
        while True:
            await receive(ws)
    except ConnectionClosed as closed:
        assert closed.rcvd is not None, "ended without a close frame"
        return closed.rcvd.code


class Member:
    """A connection as `user`, with `connected` read and `rooms` joined."""

    def __init__(self, user, *rooms):
        self.user, self.rooms = user, rooms
        self.opening = open_ws(f"/ws?user={user}")

    async def __aenter__(self):
        ws = await self.opening.__aenter__()
        connected = await receive_json(ws)
        assert connected["type"] == "connected", connected
        ws.client = connected["client"]
        for room in self.rooms:
            await ok(ws, type="join", room=room)
        return ws

    async def __aexit__(self, *error):
        await self.opening.__aexit__(*error)


async def echoes(payload, sent=None):
    async with open_ws("/echo") as ws:
        await ws.send(payload if sent is None else sent)
        assert await receive(ws) == payload, "came back changed"


@check("echo text")
async def _():
    await echoes("hello, wörld 🌊")


@check("echo binary")
async def _():
    await echoes(bytes([0, 1, 127, 128, 255]))


@check("echo empty")
async def _():
    await echoes("")
    await echoes(b"")


@check("echo 1 MiB of text")
async def _():
    await echoes("ü" * (MIB // 2))


@check("echo 1 MiB of binary")
async def _():
    await echoes(b"\xa5" * MIB)


@check("echo fragments")
async def _():
    pieces = [f"{n}," for n in range(100)]
    await echoes("".join(pieces), sent=pieces)


@check("echo many in order")
async def _():
    async with open_ws("/echo") as ws:
        for n in range(500):
            await ws.send(f"message {n}")
        for n in range(500):
            assert await receive(ws) == f"message {n}"


@check("echo ping and pong")
async def _():
    async with open_ws("/echo") as ws:
        # The library matches the pong's payload with the ping's.
        await asyncio.wait_for(await ws.ping("tide"), DEADLINE_S)


@check("echo close codes")
async def _():
    for code in (1000, 3000, 4999):
        async with open_ws("/echo") as ws:
            await asyncio.wait_for(ws.close(code, "bye"), DEADLINE_S)
            assert ws.close_code == code, ws.close_code


@check("close 1007 for text that is not UTF-8")
async def _():
    async with open_ws("/echo") as ws:
        await ws.send(b"h\xff", text=True)
        assert await close_code(ws) == 1007


@check("close 1009 for a message that is too big")
async def _():
    async with open_ws("/echo") as ws:
        # The gateway judges the header and may close while the payload is still being sent.
        sending = asyncio.create_task(ws.send(bytes(2 * MIB + 1)))
        assert await close_code(ws) == 1009
        await asyncio.wait([sending], timeout=DEADLINE_S)
        if not sending.cancelled():
            sending.exception()


@check("subprotocol choice")
async def _():
    async with open_ws("/ws") as ws:
        assert ws.subprotocol is None, ws.subprotocol
    async with open_ws("/ws", ["unknown.v9", "tidegate.v1.json"]) as ws:
        assert ws.subprotocol == "tidegate.v1.json", ws.subprotocol
    try:
        async with open_ws("/ws", ["unknown.v9"]):
            raise AssertionError("an unknown subprotocol was taken")
    except InvalidStatus as refused:
        assert refused.response.status_code == 400, refused


@check("rooms join, publish, receive")
async def _():
    room, data = "python-talk", {"text": "hi", "list": [1, 2.5, None]}
    async with Member("alice", room) as alice, Member("bob", room) as bob:
        assert (await receive_json(alice))["type"] == "user_joined"
        await alice.send(json.dumps({"type": "publish", "room": room, "data": data}))
        for ws in (alice, bob):
            message = await receive_json(ws)
            assert message["type"] == "message", message
            assert message["seq"] == 1, message
            assert message["data"] == data, message
            assert message["from"] == {"client": alice.client, "user": "alice"}, message


@check("rooms presence")
async def _():
    room = "python-here"
    async with Member("alice", room) as alice:
        async with Member("bob", room):
            joined = await receive_json(alice)
            assert joined["type"] == "user_joined", joined
            assert (joined["user"], joined["members"]) == ("bob", 2), joined
            presence = await ok(alice, type="presence", room=room)
            users = sorted(member["user"] for member in presence["members"])
            assert users == ["alice", "bob"], presence
        left = await receive_json(alice)
        assert left["type"] == "user_left", left
        assert (left["user"], left["members"]) == ("bob", 1), left


@check("rooms bad JSON is an error, not an end")
async def _():
    async with Member("alice") as alice:
        await alice.send("{not json")
        error = await receive_json(alice)
        assert (error["type"], error["code"]) == ("error", "PARSE_ERROR"), error
        assert (await ok(alice, type="echo", data=7))["data"] == 7


@check("rooms raw relays bytes")
async def _():
    raw = ["tidegate.v1.raw"]
    async with open_ws("/ws?room=python-raw", raw) as one, open_ws("/ws/python-raw", raw) as two:
        assert two.subprotocol == raw[0], two.subprotocol
        await one.send("as it came")
        assert await receive(two) == "as it came"
        await two.send(b"\x09\x00\xff")
        assert await receive(one) == b"\x09\x00\xff"


@check("compression in every agreement")
async def _():
    data = [{"n": n, "text": "ebb and flow, wörld"} for n in range(300)]
    offers = {
        "deflate": {},
        None: {"compression": None},
        "server_max_window_bits=9": {
            "extensions": [ClientPerMessageDeflateFactory(server_max_window_bits=9)]
        },
        "takeover": {
            "extensions": [
                ClientPerMessageDeflateFactory(
                    server_no_context_takeover=True,
                    client_no_context_takeover=True,
                    client_max_window_bits=12,
                )
            ]
        },
    }
    clients = []
    for expected, options in offers.items():
        ws = await connect(BASE + "/ws?user=u", proxy=None, **options).__aenter__()
        answer = ws.response.headers.get("Sec-WebSocket-Extensions")
        assert answer is None if expected is None else expected in answer, answer
        await receive_json(ws)
        await ok(ws, type="join", room="python-deflate")
        clients.append(ws)
    for ws in clients:
        await ws.send(json.dumps({"type": "publish", "room": "python-deflate", "data": data}))
        for member in clients:
            message = await receive_json(member)
            while message["type"] != "message":
                message = await receive_json(member)
            assert message["data"] == data
    for ws in clients:
        assert (await ok(ws, type="echo", data=data))["data"] == data
    for ws in clients:
        await ws.close()


@check("rooms many clients see one order")
async def _():
    members, each, room = 20, 20, "python-many"
    opening = [Member(f"user-{n}", room) for n in range(members)]
    clients = [await member.__aenter__() for member in opening]
    for m in range(each):
        for ws in clients:
            await ws.send(json.dumps({"type": "publish", "room": room, "data": m}))

    async def stream(ws):
        seen = []
        while len(seen) < members * each:
            message = await receive_json(ws)
            if message["type"] == "message":
                seen.append((message["seq"], message["from"]["client"], message["data"]))
        return seen

    streams = await asyncio.gather(*map(stream, clients))
    assert [seq for seq, _, _ in streams[0]] == list(range(1, members * each + 1))
    assert all(seen == streams[0] for seen in streams), "not one order"
    for member in opening:
        await member.__aexit__(None, None, None)


async def main():
    failed = 0
    for name, function in CHECKS:
        if not name.startswith(PREFIX):
            continue
        try:
            await function()
            print(f"ok   {name}", flush=True)
        except Exception:  # pylint: disable=broad-except
            failed += 1
            print(f"FAIL {name}: {traceback.format_exc()}", flush=True)
    return 1 if failed else 0


sys.exit(asyncio.run(main()))
