"""What is measured, on which servers, with which command lines. It starts nothing."""

from dataclasses import dataclass, field
from fnmatch import fnmatchcase

RIVALS = ["tungstenite", "tokio-websockets", "fastwebsockets", "axum", "broadcast"]
ECHO_RIVALS = RIVALS[:4]
GATEWAY, FLOOR = "tidegate", "floor"
# Two workers of the gateway on one processor, so that a second one stays for the generator.
TWO_WORKERS = "tidegate, two workers"
# Five members of the room do not read.
SLOW = "tidegate, five do not read"
# Clients ask for permessage-deflate.
DEFLATE = "tidegate, deflate"
VARIANTS = {GATEWAY, TWO_WORKERS, SLOW, DEFLATE}
LARGE_BYTES_MAX = 2 * 1024 * 1024


@dataclass(frozen=True)
class Case:
    name: str
    title: str
    mode: str
    servers: tuple
    options: tuple
    # The figure that comes first: its path in the generator's JSON, its unit, digits to show.
    figure: tuple
    unit: str
    digits: int = 2
    # Rough seconds of one measurement beyond warm-up and duration.
    overhead: float = 0.45
    kind: str = "rounds"  # Which number of rounds it gets: rounds, idle or slow.
    is_timed: bool = True
    is_large: bool = False
    is_tls: bool = False
    # By which it can be chosen together with others; what is measured by default is "plain".
    group: str = "plain"
    # Everybody is served at /echo, and no room is joined.
    is_echo: bool = False
    # Seconds, if one case needs more than the others.
    duration: float | None = None
    # Options for a server that differ: name to options.
    extra: dict = field(default_factory=dict, hash=False)


CPU = ("server", "cpu_us_per_message", "total")
ECHO = (GATEWAY, FLOOR, *ECHO_RIVALS)
FANOUT = (GATEWAY, FLOOR, "broadcast")
# The floor knows no TLS: a bare ring under the same library would be most of a gateway.
SECURE = (GATEWAY, *ECHO_RIVALS)
PRESET = {
    GATEWAY: ("--preset", "tidegate"), TWO_WORKERS: ("--preset", "tidegate"),
    DEFLATE: ("--preset", "tidegate", "--deflate"),
}  # fmt: skip


# The server does not pay for waking the generator (docs/BENCH.md, "Who wakes whom").
POLL = ("--poll", "20us")


def echo(name, title, *options, servers=ECHO, **more):
    return Case(name, title, "echo", servers, (*options, *POLL), CPU, "CPU µs per message",
                is_echo=True, **more)  # fmt: skip


def echo_tls(name, title, *options, **more):
    return echo(name, title, *options, servers=SECURE, is_tls=True, group="tls", **more)


def connect(name, title, *options, servers=ECHO, **more):
    return Case(name, title, "connect", servers, options,
                ("server", "cpu_us_per_connection", "total"), "CPU µs per connection", digits=1,
                is_echo=True, **more)  # fmt: skip


def fanout(name, title, *options, **more):
    more = {"extra": PRESET, "servers": FANOUT, **more}
    servers = more.pop("servers")
    return Case(name, title, "fanout", servers, (*options, *POLL), CPU, "CPU µs per delivery", **more)


def slow(name, title):
    # An open loop, so that the latency is that of messages that were due, whoever is late.
    options = ("--connections", "50", "--rooms", "1", "--payload", "4KiB", "--rate", "1000")
    slow_ones = ("--preset", "tidegate", "--slow", "5")
    return Case(
        name, title, "fanout", (GATEWAY, SLOW), options, ("latency_us", "p99"),
        "p99 of the members that read, µs", digits=0, kind="slow", overhead=1,
        extra={**PRESET, SLOW: slow_ones}, duration=4,
    )  # fmt: skip


def idle(name, title, servers, idle_connections, *options, **more):
    return Case(
        name, title, "idle", servers, ("--connections", str(idle_connections), *options),
        ("server", "user_bytes_per_connection"), "bytes of user memory per connection",
        digits=0, kind="idle", is_timed=False, extra=PRESET, **{"overhead": 5, **more},
    )  # fmt: skip


def all_cases(idle_connections):
    two = (GATEWAY, TWO_WORKERS)
    rooms = str(max(idle_connections // 10, 1))
    return [
        echo("echo-20B", "Echo, 20 bytes, one in flight on each of 200 connections",
             "--connections", "200", "--payload", "20"),
        echo("echo-20B-depth16", "Echo, 20 bytes, sixteen in flight on each of 200 connections",
             "--connections", "200", "--payload", "20", "--depth", "16", digits=3),
        echo("echo-1KiB", "Echo, 1 KiB, one in flight on each of 200 connections",
             "--connections", "200", "--payload", "1KiB"),
        echo("echo-16KiB-depth4", "Echo, 16 KiB, four in flight on each of 50 connections",
             "--connections", "50", "--payload", "16KiB", "--depth", "4"),
        echo("echo-1MiB", "Echo, 1 MiB, one in flight on each of 10 connections",
             "--connections", "10", "--payload", "1MiB", digits=0, is_large=True),
        fanout("fanout-1000", "Fan-out, 128 bytes, one room of 1000, one in flight",
               "--connections", "1000", "--rooms", "1", "--payload", "128"),
        fanout("fanout-1000-depth4", "Fan-out, 128 bytes, one room of 1000, four in flight",
               "--connections", "1000", "--rooms", "1", "--payload", "128", "--depth", "4"),
        fanout("fanout-1000x10", "Fan-out, 128 bytes, 1000 rooms of ten, one in flight in each",
               "--connections", "10000", "--rooms", "1000", "--payload", "128", overhead=1.5),
        fanout("cores-1000", "Fan-out, one room of 1000, one in flight: one worker, and two on one "
               "processor", "--connections", "1000", "--rooms", "1", "--payload", "128",
               servers=two),
        fanout("cores-1000-depth4", "Fan-out, one room of 1000, four in flight: one worker, and two "
               "on one processor", "--connections", "1000", "--rooms", "1", "--payload", "128",
               "--depth", "4", servers=two),
        connect("connect", "New connections: TCP, upgrade, reset"),
        slow("slow", "Fan-out of 4 KiB, 1000 a second to fifty members: all read, and five do not"),
        idle("idle-echo", f"{idle_connections:,} idle connections", ECHO, idle_connections,
             is_echo=True),
        idle("idle-room", f"{idle_connections:,} idle connections, each a member of a room of ten",
             FANOUT, idle_connections, "--rooms", rooms),
        *tls_cases(idle_connections),
        *deflate_cases(idle_connections, rooms),
    ]  # fmt: skip


def tls_cases(idle_connections):
    return [
        echo_tls("echo-tls-20B", "Echo over TLS, 20 bytes, one in flight on each of 200 connections",
                 "--connections", "200", "--payload", "20"),
        echo_tls("echo-tls-20B-depth16", "Echo over TLS, 20 bytes, sixteen in flight on each of 200 "
                 "connections", "--connections", "200", "--payload", "20", "--depth", "16", digits=3),
        echo_tls("echo-tls-1KiB", "Echo over TLS, 1 KiB, one in flight on each of 200 connections",
                 "--connections", "200", "--payload", "1KiB"),
        echo_tls("echo-tls-16KiB-depth4", "Echo over TLS, 16 KiB, four in flight on each of 50 "
                 "connections", "--connections", "50", "--payload", "16KiB", "--depth", "4"),
        connect("connect-tls", "New connections: TCP, full TLS handshake (ECDSA P-256), upgrade, reset",
                servers=SECURE, is_tls=True, group="tls"),
        connect("connect-tls-resumed", "New connections: TCP, resumed TLS handshake, upgrade, reset",
                "--resume", servers=SECURE, is_tls=True, group="tls"),
        idle("idle-tls", f"{idle_connections:,} idle connections over TLS", SECURE, idle_connections,
             is_echo=True, is_tls=True, group="tls", overhead=8),
    ]  # fmt: skip


def deflate_cases(idle_connections, rooms):
    room = ("--connections", "1000", "--rooms", "1", "--payload", "4KiB", "--content", "json")
    return [
        fanout("fanout-4KiB", "Fan-out, 4 KiB of JSON, one room of 1000, one in flight", *room,
               group="deflate"),
        fanout("fanout-4KiB-deflate", "Fan-out, 4 KiB of JSON, one room of 1000, one in flight: as it "
               "is, and compressed once for all", *room, servers=(GATEWAY, DEFLATE),
               group="deflate"),
        idle("idle-deflate", f"{idle_connections:,} idle connections, each a member of a room of ten: "
             "without permessage-deflate, and with it agreed on", (GATEWAY, DEFLATE),
             idle_connections, "--rooms", rooms, group="deflate"),
    ]  # fmt: skip


def pick(every, words):
    """The cases that words name: by name, by a pattern of names or by group; `all` is everything.
    Also the words that name none."""
    names = lambda case, word: word in ("all", case.group) or fnmatchcase(case.name, word)  # noqa: E731
    picked = [case for case in every if any(names(case, word) for word in words)]
    return picked, [word for word in words if not any(names(case, word) for case in every)]


def path(case, server):
    """The URL's path."""
    if case.is_echo:
        return "/echo"
    return "/ws" if server in VARIANTS else "/room/{room}"


@dataclass(frozen=True)
class Place:
    """Where things are: the program that is measured, and the certificate of the servers with its
    key."""

    gateway: str = "target/release/tidegate"
    certificate: str = "dev-cert.pem"
    key: str = "dev-key.pem"


def server_command(case, server, core, place=Place()):
    """How a server is started. The gateway's limits are on; what a case changes is written here."""
    # Memory that comes in pages of 2 MiB would blur what a connection takes.
    without_huge_pages = ["env", "MIMALLOC_ALLOW_THP=0"] if case.mode == "idle" else []
    return without_huge_pages + plain_server_command(case, server, core, place)


def plain_server_command(case, server, core, place):
    if server in VARIANTS:
        cores = cores_of(server, core)
        command = [place.gateway, "--config", "configs/benchmark.toml", "--cores", cores]
        settings = ["admin.listen=127.0.0.1:0"]
        settings += large_settings() if case.is_large else []
        settings += tls_settings(place) if case.is_tls else ["server.listen=127.0.0.1:0"]
        for setting in settings:
            command += ["--set", setting]
        return command
    if server == FLOOR:
        return ["benches/floor/target/release/floor"]
    command = [f"benches/rivals/target/release/{server}"]
    command += ["--message-bytes-max", str(LARGE_BYTES_MAX)] if case.is_large else []
    return command + (["--tls", f"{place.certificate}:{place.key}"] if case.is_tls else [])


def tls_settings(place):
    files = f'{{certificate="{place.certificate}",key="{place.key}"}}'
    return ["server.listen=[]", "tls.listen=127.0.0.1:0", f"tls.certificates=[{files}]"]


def large_settings():
    """What a message of 1 MiB needs of the gateway's limits."""
    return ["limits.message_bytes_max=2MiB", "limits.buffered_bytes_high=8MiB",
            "limits.buffered_bytes_low=2MiB"]  # fmt: skip


def cores_of(server, core):
    """The processors that a server is started on. The gateway wants one for each worker; two workers
    are moved to one processor once they run."""
    other = 0 if int(core) else 1
    return f"{core},{other}" if server == TWO_WORKERS else str(core)


def duration(case, settings):
    return case.duration or float(settings["DURATION"])


def generator_command(generator, case, server, port, pid, settings, place=Place()):
    url = f"{'wss' if case.is_tls else 'ws'}://127.0.0.1:{port}{path(case, server)}"
    mode = "slow" if server == SLOW else case.mode
    command = [generator, "bench", url, "--mode", mode, *case.options]
    command += case.extra.get(server, ()) if not case.is_echo else ()
    if case.is_tls:
        # Checking signatures is the generator's business, and only makes it slower.
        command += ["--insecure"] if case.mode == "connect" else ["--ca", place.certificate]
    if case.is_timed:
        command += ["--duration", f"{duration(case, settings):g}s"]
        command += ["--warm-up", f"{settings['WARM_UP']}s"]
    return command + ["--pid", str(pid), "--json", "-"]
