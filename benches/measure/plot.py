"""One picture per case: a bar for each server's median, a line from its lowest to its highest round.

SVG that follows the reader's light or dark scheme, and a PNG of the light one if `rsvg-convert` is
installed.
"""

import shutil
import subprocess
from html import escape

from cases import FLOOR, VARIANTS

WIDTH, RIGHT, TOP, ROW, BOTTOM = 900, 210, 96, 44, 54
# Width of a letter of the names, on average, in the widest of the fonts.
LETTER = 9
BAR = 22
# name: light, dark
COLOURS = {
    "card": ("#ffffff", "#12181f"),
    "edge": ("#d8dee4", "#2c3640"),
    "text": ("#17202a", "#e8eef4"),
    "quiet": ("#5b6875", "#9aa8b5"),
    "grid": ("#e9edf1", "#222b34"),
    "ours": ("#0a7ea4", "#39b7dd"),
    "floor": ("#8d99a5", "#6c7986"),
    "rival": ("#e0a458", "#c98b3f"),
    "spread": ("#17202a", "#e8eef4"),
}


def style():
    def rules(which):
        own = []
        for name, pair in COLOURS.items():
            colour = pair[which]
            if name in ("grid", "spread"):
                own.append(f".{name}{{stroke:{colour}}}")
            elif name == "card":
                own.append(f".card{{fill:{colour};stroke:{COLOURS['edge'][which]}}}")
            elif name != "edge":
                own.append(f".{name}{{fill:{colour}}}")
        return "".join(own)

    return (
        "text{font-family:system-ui,'Segoe UI','DejaVu Sans',sans-serif;font-size:14px}"
        ".title{font-size:17px;font-weight:600}.strong{font-weight:600}.small{font-size:12px}"
        ".spread{stroke-width:1.6}.line{stroke-dasharray:4 4;stroke-width:1.4}"
        + rules(0)
        + "@media (prefers-color-scheme:dark){"
        + rules(1)
        + "}"
    )


def colour(server):
    return "ours" if server in VARIANTS else "floor" if server == FLOOR else "rival"


def ticks(top):
    """Round numbers from 0 to `top`, five at most."""
    step = 10 ** (len(f"{int(top)}") - 1) if top >= 1 else 0.1
    while step * 10 < top:
        step *= 10
    while top / step < 2.5:
        step /= 2 if f"{step:e}"[0] in "12" else 2.5
    while top / step > 5:
        step *= 2
    return [n * step for n in range(int(top / step) + 1)]


def svg(name, case, result):
    found = {s: f["first"] for s, f in case["servers"].items() if "first" in f}
    order = sorted(found, key=lambda server: found[server]["median"])
    left = 40 + LETTER * max(len(server) for server in case["servers"])
    missing = [server for server in case["servers"] if server not in found]
    height = TOP + ROW * (len(order) + len(missing)) + BOTTOM
    top = max((f["max"] for f in found.values()), default=1) or 1
    scale = (WIDTH - left - RIGHT) / top
    digits = case["digits"]
    commit = (result["commit"] or "unknown")[:12]
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" '
        f'height="{height}" role="img" aria-label="{escape(case["title"])}">',
        f"<style>{style()}</style>",
        f'<rect class="card" x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1}" rx="10"/>',
        f'<text class="text title" x="24" y="36">{escape(case["title"])}</text>',
        f'<text class="quiet small" x="24" y="60">{escape(case["unit"])}; less is better. '
        f"Bar: median of the rounds; line: lowest to highest.</text>",
    ]
    bottom = TOP + ROW * (len(order) + len(missing)) - 8
    for tick in ticks(top):
        x = left + tick * scale
        out.append(f'<line class="grid" x1="{x:.1f}" y1="{TOP - 14}" x2="{x:.1f}" y2="{bottom}"/>')
        out.append(f'<text class="quiet small" x="{x:.1f}" y="{bottom + 18}" '
                   f'text-anchor="middle">{number(tick)}</text>')  # fmt: skip
    floor = found.get(FLOOR)
    for row, server in enumerate(order):
        y = TOP + row * ROW
        figure = found[server]
        strong = " strong" if colour(server) == "ours" else ""
        middle = y + BAR / 2
        x1, x2 = (left + figure[end] * scale for end in ("min", "max"))
        out += [
            f'<text class="text{strong}" x="{left - 12}" y="{middle + 5}" text-anchor="end">'
            f"{escape(server)}</text>",
            f'<rect class="{colour(server)}" x="{left}" y="{y}" '
            f'width="{max(figure["median"] * scale, 1):.1f}" height="{BAR}" rx="3"/>',
            f'<line class="spread" x1="{x1:.1f}" y1="{middle}" x2="{x2:.1f}" y2="{middle}"/>',
        ]
        for x in (x1, x2):
            out.append(f'<line class="spread" x1="{x:.1f}" y1="{middle - 5}" x2="{x:.1f}" '
                       f'y2="{middle + 5}"/>')  # fmt: skip
        label = f"{figure['median']:,.{digits}f}"
        if floor and server != FLOOR and floor["median"]:
            label += f"   {figure['median'] / floor['median']:.2f} × floor"
        out.append(f'<text class="text{strong}" x="{x2 + 12:.1f}" y="{middle + 5}" '
                   f'xml:space="preserve">{label}</text>')  # fmt: skip
    for row, server in enumerate(missing, len(order)):
        y = TOP + row * ROW + BAR / 2 + 5
        out.append(f'<text class="quiet" x="{left - 12}" y="{y}" text-anchor="end">'
                   f"{escape(server)}</text>")  # fmt: skip
        out.append(f'<text class="quiet" x="{left + 8}" y="{y}">not measured</text>')
    if floor:
        x = left + floor["median"] * scale
        out.append(f'<line class="spread line" x1="{x:.1f}" y1="{TOP - 14}" x2="{x:.1f}" '
                   f'y2="{bottom}"/>')  # fmt: skip
    machine = result["machine"]
    out.append(
        f'<text class="quiet small" x="24" y="{height - 14}">{escape(name)} · commit {commit} · '
        f"{escape(machine['cpu'])}, Linux {escape(machine['kernel'])} · {result['begun'][:10]}</text>"
    )
    return "\n".join([*out, "</svg>", ""])


def number(value):
    return f"{value:,.0f}" if value == int(value) else f"{value:g}"


def write(path, case, result):
    """The SVG, and the PNG where it can be made."""
    path.with_suffix(".svg").write_text(svg(path.name, case, result))
    if not shutil.which("rsvg-convert"):
        print("no rsvg-convert (Debian: librsvg2-bin): no PNG")
        return
    command = ["rsvg-convert", "--zoom", "2", "--output", f"{path}.png", f"{path}.svg"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        print(f"rsvg-convert: {done.stderr.strip()}")
