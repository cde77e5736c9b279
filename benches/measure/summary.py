"""Medians, spreads, ratios and doubts out of raw rounds. It reads no file and starts nothing."""

import statistics

import cases
from cases import FLOOR, GATEWAY

# Beyond this share of the measured time, others used the cores and the figures are doubtful.
WAITED_MAX = 0.02
# Figures beside each case's first one, where the generator gives them.
FIGURES = {
    "messages_per_second": ("messages", "per_second"),
    "connections_per_second": ("connections", "per_second"),
    "p50_us": ("latency_us", "p50"),
    "p99_us": ("latency_us", "p99"),
    "p999_us": ("latency_us", "p999"),
    "server_cores": ("server", "cpu_share"),
    "server_waited": ("server", "waited_share"),
    "generator_busy": ("generator", "busy"),
}


def read(figures, path):
    """The number at a path of the generator's JSON, or None."""
    for name in path:
        if not isinstance(figures, dict) or name not in figures:
            return None
        figures = figures[name]
    return figures if isinstance(figures, (int, float)) else None


def spread(values):
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def summarise(case, entries):
    """One case's rounds: `servers`, each with spreads, and the gateway's `ratios`."""
    fine = [entry for entry in entries if "figures" in entry]
    servers = {}
    for server in case.servers:
        own = [entry["figures"] for entry in fine if entry["server"] == server]
        found = {"rounds": len(own), "failures": failures(entries, server)}
        paths = {"first": case.figure, **FIGURES}
        if case.figure[-1] == "total":
            paths |= {f"{part}_us": (*case.figure[:-1], part) for part in ("user", "system")}
        for name, path in paths.items():
            values = [value for value in (read(f, path) for f in own) if value is not None]
            if values:
                found[name] = spread(values)
        servers[server] = found
    return {
        "title": case.title,
        "unit": case.unit,
        "digits": case.digits,
        "mode": case.mode,
        "servers": servers,
        "ratios": ratios(case, fine),
    }


def failures(entries, server):
    return [entry["failure"] for entry in entries
            if entry["server"] == server and "failure" in entry]  # fmt: skip


def ratios(case, entries):
    """The gateway's first figure over the floor's and over the best rival's, round by round:
    neighbours in time share the machine's mood. The best rival is the one with the best median."""
    by_server = {}
    for entry in entries:
        value = read(entry["figures"], case.figure)
        if value is not None:
            by_server.setdefault(entry["server"], {})[entry["round"]] = value
    ours = by_server.get(GATEWAY, {})
    found = {}
    others = [server for server in by_server if server not in cases.VARIANTS | {FLOOR}]
    best = min(others, key=lambda s: statistics.median(by_server[s].values()), default=None)
    for name, server in (("floor", FLOOR), ("best_rival", best)):
        theirs = by_server.get(server, {})
        pairs = [ours[n] / theirs[n] for n in ours if theirs.get(n)]
        if pairs:
            found[name] = {"of": server, **spread(pairs)}
    slow = by_server.get(cases.SLOW, {})
    pairs = [slow[n] / ours[n] for n in slow if ours.get(n)]
    if pairs:
        found["slow"] = {"of": "all read", **spread(pairs)}
    deflate = by_server.get(cases.DEFLATE, {})
    pairs = [deflate[n] / ours[n] for n in deflate if ours.get(n)]
    if pairs:
        found["deflate"] = {"of": "without", **spread(pairs)}
    two = by_server.get(cases.TWO_WORKERS, {})
    pairs = [(two[n], ours[n]) for n in two if ours.get(n)]
    if pairs:
        found["two_workers"] = {"of": "one worker", **spread([a / b for a, b in pairs])}
        # Half of the members are on the other worker: what is beyond one worker's cost is theirs.
        crossing = spread([(2 * a - b) / b for a, b in pairs])
        found["crossing"] = {"of": "a local delivery", **crossing}
    return found


def doubts(entries):
    """Why figures may not hold: other work on the machine while they were taken."""
    found = []
    for entry in entries:
        place = f"round {entry['round']}, {entry['case']}, {entry['server']}"
        if "failure" in entry:
            found.append(f"{place}: {entry['failure']}")
            continue
        if entry["compilers"]:
            found.append(f"{place}: {entry['compilers']} compilers ran at its start")
        waited = read(entry["figures"], ("server", "waited_share")) or 0
        # Two workers on one processor wait for each other.
        waited = 0 if entry["server"] == cases.TWO_WORKERS else waited
        if waited > WAITED_MAX:
            found.append(f"{place}: the server waited {waited:.0%} of the time for its core")
        for note in entry["figures"].get("notes", []):
            if "waited for a processor" not in note or note.startswith("the generator"):
                found.append(f"{place}: {note}")
    return found
