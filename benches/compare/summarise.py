"""Turns the raw rounds of `benches/compare/run` into a result file, and a result file into a table.

    summarise.py line                    one round from standard input, for people
    summarise.py json RAW COMMANDS       the result file, to standard output
    summarise.py table RESULT            its table, as Markdown
    summarise.py readme RESULT README    the same, put into README between its two marks
"""

import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tomllib
from pathlib import Path

FIGURES = {
    "echo": {
        "cpu_us_per_message": lambda f: f["cpu_us_per_message"],
        "rate_per_s": lambda f: f["rate_per_s"],
        "p50_us": lambda f: f["latency_us"]["p50"],
        "p99_us": lambda f: f["latency_us"]["p99"],
        "p99_9_us": lambda f: f["latency_us"]["p99_9"],
        "server_busy": lambda f: f["server"]["cpu_ms"] / f["elapsed_ms"],
        "generator_busy": lambda f: f["generator"]["cpu_ms"] / f["elapsed_ms"],
        "server_waited": lambda f: f["server"]["waited_for_cpu_ms"] / f["elapsed_ms"],
        "generator_waited": lambda f: f["generator"]["waited_for_cpu_ms"] / f["elapsed_ms"],
    },
    "idle": {"user_bytes_per_connection": lambda f: f["user_bytes_per_connection"]},
}
GATEWAY, RIVAL = "tidegate", "rival-tungstenite"
# Beyond this share of the measured time, others used the cores and the figures are doubtful.
WAITED_MAX = 0.02
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"


def spread(values):
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def summarise(rounds):
    summary = {}
    for entry in rounds:
        case = summary.setdefault(entry["case"], {})
        server = case.setdefault(entry["server"], {})
        for name, read in FIGURES[entry["figures"]["mode"]].items():
            server.setdefault(name, []).append(read(entry["figures"]))
    for case in summary.values():
        main = "cpu_us_per_message" if "cpu_us_per_message" in next(iter(case.values())) else None
        main = main or "user_bytes_per_connection"
        pairs = list(zip(case.get(GATEWAY, {}).get(main, []), case.get(RIVAL, {}).get(main, [])))
        for server in case.values():
            for name, values in server.items():
                server[name] = spread(values)
        if pairs:
            # Round by round: neighbours in time share the machine's mood.
            case["ratio"] = {"of": main, **spread([ours / theirs for ours, theirs in pairs])}
    return summary


def output(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def locked(path, *names):
    packages = tomllib.loads(Path(path).read_text())["package"]
    return {p["name"]: p["version"] for p in packages if p["name"] in names}


def first(path, pattern):
    match = re.search(pattern, Path(path).read_text(), re.MULTILINE)
    return match.group(1).strip() if match else None


def result(raw, commands):
    rounds = [json.loads(line) for line in Path(raw).read_text().splitlines()]
    changed = output("git", "status", "--porcelain", "--", ".", ":!bench-results")
    return {
        "begun": os.environ["begun"],
        "commit": output("git", "rev-parse", "HEAD"),
        "uncommitted_changes": bool(changed),
        "machine": {
            "cpu": first("/proc/cpuinfo", r"^model name\s*:(.*)$"),
            "cpus": os.cpu_count(),
            "memory_kib": int(first("/proc/meminfo", r"^MemTotal:\s*(\d+)")),
            "kernel": platform.release(),
        },
        "versions": {
            "rustc": output("rustc", "--version"),
            "tidegate": output("target/release/tidegate", "--version"),
            "gateway": locked("Cargo.lock", "monoio", "io-uring", "mimalloc"),
            "rival": locked(
                "benches/compare/Cargo.lock", "tokio", "tokio-tungstenite", "tungstenite", "mimalloc"
            ),
        },
        "limits": {
            "descriptors": 20_000,
            "message_bytes_max": 65_536,
            "rival_read_buffer_bytes": 8192,
            "mimalloc_allow_thp": os.environ.get("MIMALLOC_ALLOW_THP", "default"),
            "transparent_hugepages": first(
                "/sys/kernel/mm/transparent_hugepage/enabled", r"\[(\w+)\]"
            ),
            "somaxconn": int(Path("/proc/sys/net/core/somaxconn").read_text()),
            "local_ports": Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split(),
        },
        "settings": {
            name.lower(): float(os.environ[name])
            for name in (
                "ROUNDS DURATION WARM_UP CONNECTIONS IDLE_ROUNDS IDLE_CONNECTIONS SERVER_CORE LOAD_CORE"
            ).split()
        },
        "command": "benches/compare/run",
        "commands": dict(
            line.split("\t", 1) for line in Path(commands).read_text().splitlines()
        ),
        "doubts": doubts(rounds),
        "summary": summarise(rounds),
        "rounds": rounds,
    }


def doubts(rounds):
    """Why the figures may not hold: other work on the machine while they were taken."""
    found = []
    for entry in rounds:
        place = f"round {entry['round']}, {entry['case']}, {entry['server']}"
        figures = entry["figures"]
        if entry["compilers"]:
            found.append(f"{place}: {entry['compilers']} compilers ran at its start")
        for process in ("server", "generator"):
            if figures["mode"] == "echo":
                share = figures[process]["waited_for_cpu_ms"] / figures["elapsed_ms"]
                if share > WAITED_MAX:
                    found.append(f"{place}: the {process} waited {share:.0%} of the time for its core")
    return found


def shown(figure, digits):
    return f"{figure['median']:,.{digits}f} ({figure['min']:,.{digits}f}–{figure['max']:,.{digits}f})"


def table(found):
    lines = [
        "| case | server | CPU µs per message | messages per s | p50 µs | p99 µs |",
        "|---|---|---|---|---|---|",
    ]
    idle = ["| case | server | user bytes per connection |", "|---|---|---|"]
    ratios = []
    for case, servers in found["summary"].items():
        for server, figures in servers.items():
            if server == "ratio":
                ratios.append(f"{case}: {figures['of']}, gateway over rival, {shown(figures, 2)}")
            elif "cpu_us_per_message" in figures:
                cells = [shown(figures["cpu_us_per_message"], 3), shown(figures["rate_per_s"], 0)]
                cells += [shown(figures["p50_us"], 0), shown(figures["p99_us"], 0)]
                lines.append("| " + " | ".join([case, server, *cells]) + " |")
            else:
                cell = shown(figures["user_bytes_per_connection"], 0)
                idle.append(f"| {case} | {server} | {cell} |")
    machine = found["machine"]
    settings = found["settings"]
    text = (
        f"Commit {found['commit'][:12]}{' with changes' if found['uncommitted_changes'] else ''}, "
        f"{found['begun']}, {machine['cpu']}, Linux {machine['kernel']}; medians (min–max) of "
        f"{settings['rounds']:.0f} echo and {settings['idle_rounds']:.0f} idle rounds.\n\n"
    )
    text += "\n".join(lines) + "\n\n" + "\n".join(idle) + "\n\n"
    text += "\n".join(f"- {line}" for line in ratios) + "\n"
    if found["doubts"]:
        text += f"\n{len(found['doubts'])} doubts, because the machine was not quiet: see the file.\n"
    return text


def line(entry):
    figures = entry["figures"]
    start = f"{entry['round']} {entry['case']:13} {entry['server']:18}"
    if figures["mode"] == "echo":
        waited = figures["server"]["waited_for_cpu_ms"] / figures["elapsed_ms"]
        return (
            f"{start}{figures['cpu_us_per_message']:8.3f} µs{figures['rate_per_s']:12,.0f}/s"
            f"  p99 {figures['latency_us']['p99']:,.0f} µs  waited {waited:.1%}"
        )
    return f"{start}{figures['user_bytes_per_connection']:8,.0f} B per connection"


def main(arguments):
    match arguments:
        case ["line"]:
            print(line(json.load(sys.stdin)), flush=True)
        case ["json", raw, commands]:
            print(json.dumps(result(raw, commands), indent=1))
        case ["table", path]:
            print(table(json.loads(Path(path).read_text())), end="")
        case ["readme", path, readme]:
            text = Path(readme).read_text()
            before, rest = text.split(BEGIN)
            after = rest.split(END)[1]
            body = table(json.loads(Path(path).read_text()))
            Path(readme).write_text(f"{before}{BEGIN}\n{body}{END}{after}")
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
