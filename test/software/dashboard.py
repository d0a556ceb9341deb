#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Draws the first rows of the dashboard from what TestDashboardPicture has recorded: dashboard.py DASHBOARD RESULTS PICTURE
(make docs-pictures). Grafana is not needed, and draws it in its own way."""

import json
import pathlib
import re
import sys
from xml.sax.saxutils import escape

COLUMN, LINE, GAP = 50, 30, 8  # of Grafana's grid
END = "Hosts: flow tables"  # the row before which the picture ends
LEGEND = 4  # lines
PORT = ":9945"
NOTE = "Drawn by a test of replypath from the dashboard's queries to a Prometheus that scraped two hosts; not by Grafana."
UNITS = {"pps": "p/s", "bps": "b/s", "cps": "/s"}

STYLE = """
  text { font: 12px system-ui, sans-serif; fill: #1f2328 }
  .head { font-weight: 600; font-size: 13px } .small { font-size: 11px; fill: #59636e } .end { text-anchor: end }
  .figure { font-size: 34px; text-anchor: middle; fill: #1a7f37 } .bad { fill: #cf222e } .label { text-anchor: middle }
  .page { fill: #ffffff } .panel { fill: #f6f8fa; stroke: #d1d9e0 } .grid { stroke: #d1d9e0 }
  .line { fill: none; stroke-width: 1.5 }
  .c0 { stroke: #0969da } .c1 { stroke: #bc4c00 } .c2 { stroke: #1a7f37 } .c3 { stroke: #8250df } .c4 { stroke: #bf3989 }
  .c5 { stroke: #9a6700 } .c6 { stroke: #1b7c83 }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 } .small { fill: #9198a1 } .figure { fill: #3fb950 } .bad { fill: #ff7b72 }
    .page { fill: #0d1117 } .panel { fill: #161b22; stroke: #30363d } .grid { stroke: #30363d }
    .c0 { stroke: #58a6ff } .c1 { stroke: #ff9b5e } .c2 { stroke: #3fb950 } .c3 { stroke: #bc8cff } .c4 { stroke: #f778ba }
    .c5 { stroke: #d29922 } .c6 { stroke: #39c5cf }
  }
"""


def text(x, y, words, names=""):
    return f'<text x="{x:.0f}" y="{y:.0f}" class="{names}">{escape(words)}</text>'


def number(value, unit=""):
    for factor, prefix in ((1e9, " G"), (1e6, " M"), (1e3, " k"), (1, " " if unit else "")):
        if abs(value) >= factor:
            return f"{value / factor:.3g}{prefix}{unit}"
    return f"{value:.2g} {unit}".strip()


def name(legend, labels):
    """Returns the name of a series, without the port of its instance."""
    return re.sub(r"{{(\w+)}}", lambda m: labels.get(m[1], ""), legend).replace(PORT, "")


def series_of(panel, results):
    for target in panel["targets"]:
        for one in results[target["expr"]]:
            yield name(target.get("legendFormat", ""), one["metric"]), [(t, float(v)) for t, v in one["values"]]


def draw_lines(panel, results, x, y, width, height):
    """The legend holds the series that are largest."""
    series = sorted(series_of(panel, results), key=lambda s: -max(v for _, v in s[1]))
    unit = UNITS.get(panel["fieldConfig"]["defaults"].get("unit"), "")
    times = [t for values in results.values() for one in values for t, _ in one["values"]]
    first, last = min(times), max(times)
    most = max((v for _, values in series for _, v in values), default=0) or 1
    left, top, bottom = x + 62, y + 36, y + height - 18 * min(len(series), LEGEND) - 26
    right = x + width - 12
    for share in (0, 0.5, 1):
        level = bottom - share * (bottom - top)
        yield f'<path class="grid" d="M{left:.0f} {level:.0f}H{right:.0f}"/>'
        yield text(left - 6, level + 4, number(share * most, unit) if share else "0", "small end")
    yield text(left, bottom + 15, "0 s", "small") + text(right, bottom + 15, f"{last - first:.0f} s", "small end")
    for i, (title, values) in enumerate(series):
        points = " ".join(f"{left + (t - first) / (last - first) * (right - left):.1f},{bottom - v / most * (bottom - top):.1f}"
                          for t, v in values)
        yield f'<polyline class="line c{i % 7}" points="{points}"/>'
        if i < LEGEND:
            line = bottom + 18 * (i + 1) + 12
            yield f'<path class="line c{i % 7}" d="M{x + 12:.0f} {line - 4:.0f}h14"/>'
            yield text(x + 32, line, title, "small")


def draw_figure(panel, results, x, y, width, height):
    shown = [(title, values[-1][1]) for title, values in series_of(panel, results)]
    color = panel["fieldConfig"]["defaults"]["thresholds"]["steps"][1]["color"]
    for i, (title, value) in enumerate(shown):
        middle = x + width * (i + 0.5) / len(shown)
        bad = color in ("red", "orange") and value >= 1
        yield text(middle, y + 78, f"{value:.0f}", "figure bad" if bad else "figure")
        yield text(middle, y + 102, title, "small label")


def draw_table(panel, results, x, y, width, height):
    """Joins the queries by host, as Grafana's merge does."""
    titles = panel["transformations"][1]["options"]["renameByName"]
    rows = {}
    for target in panel["targets"]:
        for one in results[target["expr"]]:
            end = max(t for series in results[target["expr"]] for t, _ in series["values"])
            if one["values"][-1][0] < end:
                continue  # what the host was before
            row = rows.setdefault(one["metric"]["instance"].replace(PORT, ""), {})
            row.update({titles[k]: v for k, v in one["metric"].items() if k != "instance"})
            row[titles["Value #" + target["refId"]]] = f'{float(one["values"][-1][1]):,.0f}'
    columns = [titles["mode"], titles["version"]] + [titles[f"Value #{ref}"] for ref in "BCDE"]
    for i, column in enumerate([titles["instance"]] + columns):
        at = x + 14 + i * (width - 28) / 7
        yield text(at, y + 52, column, "small")
        for j, (host, row) in enumerate(sorted(rows.items())):
            yield text(at, y + 78 + 24 * j, row.get(column, "-") if i else host)


DRAWN = {"timeseries": draw_lines, "stat": draw_figure, "table": draw_table}


def draw(board, results):
    panels = board["panels"]
    ends = next(p["gridPos"]["y"] for p in panels if p["title"] == END)
    width, height = 24 * COLUMN, ends * LINE + 34
    yield (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
           f'aria-labelledby="t d">\n<title id="t">The dashboard of replypath</title>\n<desc id="d">{NOTE}</desc>\n'
           f'<style>{STYLE}</style>\n<rect class="page" width="100%" height="100%"/>')
    for panel in panels:
        grid = panel["gridPos"]
        x, y, w, h = grid["x"] * COLUMN, grid["y"] * LINE, grid["w"] * COLUMN - GAP, grid["h"] * LINE - GAP
        if grid["y"] >= ends:
            break
        if panel["type"] == "row":
            yield text(x + 4, y + 20, panel["title"], "head")
            continue
        yield f'<rect class="panel" x="{x}" y="{y}" width="{w}" height="{h}" rx="4"/>'
        yield text(x + 12, y + 22, panel["title"], "head")
        yield from DRAWN[panel["type"]](panel, results, x, y, w, h)
    yield text(4, height - 12, NOTE, "small")
    yield "</svg>\n"


def main(board, results, picture):
    load = lambda path: json.loads(pathlib.Path(path).read_text())
    pathlib.Path(picture).write_text("\n".join(draw(load(board), load(results))))
    print(picture)


if __name__ == "__main__":
    main(*sys.argv[1:])
