#!/usr/bin/env python3
"""What clients that are served already see of a storm of TLS handshakes.

Starts the gateway on one processor with a certificate of each kind and, from another processor, measures
round trips of one /echo client: undisturbed, then while other clients do nothing but send a ClientHello,
so that the gateway signs and they do next to nothing. Needs python3 and openssl.

    benches/tls_storm.py [--gateway target/release/tidegate] [--seconds 4] [--storm 64]
"""

import argparse
import base64
import json
import multiprocessing
import os
import selectors
import socket
import ssl
import struct
import subprocess
import tempfile
import time
import urllib.request

KEYS = {
    "ECDSA P-256": ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"],
    "RSA 2048": ["-newkey", "rsa:2048"],
}
# Often enough to meet every turn of a busy worker, seldom enough to be no load.
PROBE_INTERVAL_S = 0.002


def client_hello():
    """What a client sends first, to be sent again and again."""
    context = ssl.create_default_context()
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
    try:
        client.do_handshake()
    except ssl.SSLWantReadError:
        pass
    return outgoing.read()


def storm(address, hello, count, stop):
    """Keeps `count` connections that send a ClientHello, read the answer's beginning and go."""
    os.sched_setaffinity(0, {CLIENTS_CPU})
    # The round trips that are measured come first.
    os.nice(10)
    selector = selectors.DefaultSelector()
    linger = struct.pack("ii", 1, 0)

    def begin():
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        sock.connect(address)
        sock.send(hello)
        sock.setblocking(False)
        selector.register(sock, selectors.EVENT_READ)

    for _ in range(count):
        begin()
    while not stop.is_set():
        for key, _ in selector.select(0.1):
            selector.unregister(key.fileobj)
            try:
                key.fileobj.recv(64)
            except OSError:
                pass
            key.fileobj.close()
            begin()


class Echo:
    """A WebSocket on /echo, as little as is needed for round trips."""

    def __init__(self, address):
        self.sock = socket.create_connection(address)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock.settimeout(20)
        key = base64.b64encode(os.urandom(16)).decode()
        self.sock.sendall(
            (
                "GET /echo HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
                f"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n"
            ).encode()
        )
        answer = b""
        while not answer.endswith(b"\r\n\r\n"):
            answer += self.sock.recv(1)
        assert answer.startswith(b"HTTP/1.1 101"), answer

    def round_trip(self):
        """Seconds for a message of 20 bytes, there and back."""
        mask = b"\x01\x02\x03\x04"
        payload = os.urandom(20)
        frame = b"\x82\x94" + mask + bytes(b ^ mask[n % 4] for n, b in enumerate(payload))
        before = time.perf_counter()
        self.sock.sendall(frame)
        answer = b""
        while len(answer) < 22:
            answer += self.sock.recv(64)
        took = time.perf_counter() - before
        assert answer == b"\x82\x14" + payload, answer
        return took


def probe(echo, seconds):
    """Round trips for so long, sorted, in microseconds."""
    took = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        took.append(echo.round_trip() * 1e6)
        time.sleep(PROBE_INTERVAL_S)
    return sorted(took)


def counters(admin):
    with urllib.request.urlopen(f"{admin}/counters", timeout=20) as answer:
        return json.load(answer)["total"]


def at(sorted_values, share):
    return sorted_values[min(len(sorted_values) - 1, int(len(sorted_values) * share))]


def start(gateway, certificate, key):
    """The gateway, and its plain, encrypted and admin addresses."""
    pair = f'tls.certificates=[{{certificate="{certificate}", key="{key}"}}]'
    child = subprocess.Popen(
        [gateway, "--demo", "--cores", str(GATEWAY_CPU), "--listen", "127.0.0.1:0"]
        + ["--set", 'tls.listen="127.0.0.1:0"', "--set", pair]
        + ["--set", "admin.listen=127.0.0.1:0", "--set", "limits.messages_per_second=0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, CPUS),
    )
    found = {}
    for line in child.stdout:
        words = line.split()
        if words == ["ready"]:
            break
        for name, scheme in (("plain", "ws://"), ("tls", "wss://"), ("admin", "http://")):
            is_it = words and words[0] == ("admin" if name == "admin" else "listening")
            if is_it and words[-1].startswith(scheme):
                found[name] = words[-1].removeprefix(scheme).removesuffix("/ws")

    def address(text):
        host, port = text.rsplit(":", 1)
        return host, int(port)

    return child, address(found["plain"]), address(found["tls"]), "http://" + found["admin"]


def measure(arguments, name, directory):
    certificate, key = f"{directory}/certificate.pem", f"{directory}/key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
        + ["-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", certificate]
        + KEYS[name],
        check=True,
        stderr=subprocess.DEVNULL,
    )
    gateway, plain, tls, admin = start(arguments.gateway, certificate, key)
    stop = multiprocessing.Event()
    stormer = multiprocessing.Process(
        target=storm, args=(tls, client_hello(), arguments.storm, stop), daemon=True
    )
    try:
        echo = Echo(plain)
        probe(echo, 0.5)
        quiet = probe(echo, arguments.seconds)
        stormer.start()
        probe(echo, 0.5)
        before, began = counters(admin), time.perf_counter()
        stormy = probe(echo, arguments.seconds)
        after, took = counters(admin), time.perf_counter() - began
        # Each client goes after the first answer: its handshake fails, its signature was made.
        signed = after["tls_failed_aborted_total"] - before["tls_failed_aborted_total"]
        deferred = after["tls_steps_deferred_total"] - before["tls_steps_deferred_total"]
        for what, values in (("quiet", quiet), ("storm", stormy)):
            print(
                f"{name:12} {what:6} "
                + "  ".join(
                    f"{label} {at(values, share):8.0f}"
                    for label, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("max", 1))
                )
                + "  µs"
                + (
                    f"   {signed / took:6.0f} handshakes/s, {deferred / took:.0f} deferred/s"
                    if what == "storm"
                    else ""
                )
            )
    finally:
        stop.set()
        if stormer.pid:
            stormer.join(5)
        gateway.terminate()
        gateway.wait(20)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gateway", default="target/release/tidegate")
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--storm", type=int, default=64, help="ClientHellos at a time")
    arguments = parser.parse_args()
    os.sched_setaffinity(0, {CLIENTS_CPU})
    for name in KEYS:
        with tempfile.TemporaryDirectory() as directory:
            measure(arguments, name, directory)


CPUS = sorted(os.sched_getaffinity(0))
GATEWAY_CPU, CLIENTS_CPU = CPUS[0], CPUS[-1]

if __name__ == "__main__":
    main()
