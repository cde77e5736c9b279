"""Result files, lines for people and the table in Markdown, out of what was measured."""

import json
import re

from cases import DEFLATE, FLOOR, GATEWAY, SLOW, TWO_WORKERS
from summary import read

BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"
DOUBTS_SHOWN = 12


def line(case, entry):
    """One measurement, for people."""
    start = f"{entry['round']} {case.name:19} {entry['server']:22}"
    if "failure" in entry:
        return f"{start}FAILED: {entry['failure']}"
    figures = entry["figures"]
    first = read(figures, case.figure)
    text = "no figure" if first is None else f"{first:12,.{case.digits}f} {case.unit}"
    for name, path, share in (
        ("per s", ("messages", "per_second"), False),
        ("p99 µs", ("latency_us", "p99"), False),
        ("server waited", ("server", "waited_share"), True),
    ):
        value = read(figures, path)
        if value is not None:
            text += f"  {name} {value:.1%}" if share else f"  {name} {value:,.0f}"
    return start + text


def shown(figure, digits):
    if figure is None:
        return "–"
    median, low, high = (f"{figure[name]:,.{digits}f}" for name in ("median", "min", "max"))
    return median if low == high else f"{median} ({low}–{high})"


def rate(found):
    name = "connections_per_second" if "connections_per_second" in found else ""
    name = "messages_per_second" if "messages_per_second" in found else name
    return shown_short(found.get(name)) if name else "–"


def shown_short(figure, digits=0):
    return "–" if figure is None else f"{figure['median']:,.{digits}f}"


def table(result):
    """What stands in bench-results/README.md."""
    commit, machine, chosen = result["commit"] or "unknown", result["machine"], result["settings"]
    versions = result["versions"]
    lines = [
        f"Commit {commit[:12]}{' with changes' if result['uncommitted_changes'] else ''}, "
        f"{result['begun']}, {result['minutes']} minutes; {machine['cpu']}, {machine['cpus']} "
        f"processors, Linux {machine['kernel']}; {versions['tidegate']}, {versions['rustc']}. "
        f"Medians (lowest–highest) of {chosen['ROUNDS']} rounds, {chosen['IDLE_ROUNDS']} for idle "
        f"connections, {chosen['SLOW_ROUNDS']} with slow members; {chosen['DURATION']} s each after "
        f"{chosen['WARM_UP']} s of load.",
        "",
    ]
    if result["cut_short"]:
        lines += [f"**Cut short**: {result['cut_short']}.", ""]
    lines += [f"- **Not measured**: {name} {why}." for name, why in result["not_measured"].items()]
    lines += overview(result["summary"])
    for name, case in result["summary"].items():
        lines += case_lines(name, case)
    lines += ["", "#### Versions", ""]
    for name in ("gateway", "floor", "rivals"):
        own = ", ".join(f"{crate} {version}" for crate, version in versions[name].items() if version)
        lines.append(f"- {name}: {own}")
    lines += limit_lines(result) + command_lines(result) + doubt_lines(result)
    return "\n".join(lines) + "\n"


def overview(summary):
    lines = [
        "", "| case | figure | tidegate | floor | × floor | best rival | × best rival |",
        "|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for name, case in summary.items():
        digits, ratios = case["digits"], case["ratios"]
        ours = case["servers"].get(GATEWAY, {}).get("first")
        floor = case["servers"].get(FLOOR, {}).get("first")
        best = ratios.get("best_rival", {}).get("of")
        rival = case["servers"].get(best, {}).get("first")
        cells = [
            f"[{name}](plots/{name}.svg)", case["unit"], shown_short(ours, digits),
            shown_short(floor, digits), shown_short(ratios.get("floor"), 2),
            f"{best} {shown_short(rival, digits)}" if best else "–",
            shown_short(ratios.get("best_rival"), 2),
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def case_lines(name, case):
    unit, digits = case["unit"], case["digits"]
    lines = ["", f"#### {name}", "", f"{case['title']}.", "", f"![{name}](plots/{name}.png)", ""]
    is_idle = case["mode"] == "idle"
    is_latency = SLOW in case["servers"]
    heads = ["server", unit]
    if not is_idle and not is_latency:
        heads += ["of it user, system", "per second", "p50 µs", "p99 µs", "generator busy"]
    if is_latency:
        heads += ["per second", "p50 µs", "p99.9 µs", "server's cores"]
    lines += ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for server, found in case["servers"].items():
        if "first" not in found:
            why = found["failures"][-1] if found["failures"] else "not measured"
            lines.append(f"| {server} | {why} |" + " |" * (len(heads) - 2))
            continue
        cells = [server, shown(found["first"], digits)]
        get = lambda n, d=0: shown_short(found.get(n), d)  # noqa: E731, B023
        if not is_idle and not is_latency:
            cells += [f"{get('user_us', digits)}, {get('system_us', digits)}", rate(found)]
            cells += [get("p50_us"), get("p99_us"), get("generator_busy", 2)]
        if is_latency:
            cells += [rate(found), get("p50_us"), get("p999_us"), get("server_cores", 2)]
        if found["failures"]:
            cells[0] += f" ({len(found['failures'])} rounds failed)"
        lines.append("| " + " | ".join(cells) + " |")
    texts = {
        "floor": "tidegate over {of}: {value}",
        "best_rival": "tidegate over the best rival, {of}: {value}",
        "slow": f"{SLOW}, over {{of}}: {{value}}",
        "deflate": f"{DEFLATE}, over {{of}}: {{value}}",
        "two_workers": f"{TWO_WORKERS}, over {{of}}: {{value}}",
        "crossing": "a delivery to another worker over {of}, computed: {value}",
    }
    found = [
        "- " + texts[kind].format(of=ratio["of"], value=shown(ratio, 2))
        for kind, ratio in case["ratios"].items()
    ]
    return lines + ([""] + found if found else [])


def limit_lines(result):
    lines = ["", "#### Limits of the gateway", "", "From configs/benchmark.toml, all of them on:", ""]
    for section, values in result["limits"].items():
        own = ", ".join(f"{key} {value}" for key, value in values.items())
        lines.append(f"- `[{section}]` {own}")
    lines.append(f"- for 1 MiB: {', '.join(result['large_messages'])}")
    return lines


def command_lines(result):
    lines = ["", "#### Commands", ""]
    for name, servers in result["commands"].items():
        lines += [f"<details><summary>{name}</summary>", "", "```"]
        lines += [f"{command[part]}" for command in servers.values() for part in command]
        lines += ["```", "", "</details>"]
    return lines


def doubt_lines(result):
    doubts = result["doubts"]
    if not doubts:
        return ["", "No doubts: nothing else ran on the machine."]
    # The same doubt about many measurements is one line.
    places = {}
    for doubt in doubts:
        place, text = doubt.split(": ", 1)
        places.setdefault(re.sub(r"\d+(?= %|%| compilers)", "N", text), []).append(place)
    lines = ["", f"#### {len(doubts)} doubts", ""]
    for text, own in sorted(places.items(), key=lambda item: -len(item[1]))[:DOUBTS_SHOWN]:
        lines.append(f"- {len(own)} × {text} (first in {own[0]})")
    if len(places) > DOUBTS_SHOWN:
        lines.append(f"- and {len(places) - DOUBTS_SHOWN} kinds more")
    return lines + ["", "All of them are in results.json."]


def put(readme, text):
    """Replaces what stands between the two marks."""
    before, rest = readme.read_text().split(BEGIN)
    after = rest.split(END)[1]
    readme.write_text(f"{before}{BEGIN}\n{text}{END}{after}")


def dump(result):
    """JSON with one line per round, so that a diff shows rounds."""
    head = dict(result)
    rounds = head.pop("rounds")
    text = json.dumps(head, indent=1, ensure_ascii=False)
    lines = ",\n".join("  " + json.dumps(entry, ensure_ascii=False) for entry in rounds)
    return text[: text.rindex("\n}")] + f',\n "rounds": [\n{lines}\n ]\n}}\n'
