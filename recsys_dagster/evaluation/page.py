"""Pieces of a self-contained HTML page: escaping, tables, line charts as inline SVG, and the page around them.

Functions named `..._html` return markup that is safe to join; every text that goes in passes through `text`. Nothing
here refers to anything outside the page, and its content security policy forbids it.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

STYLE = """
:root { color-scheme: light dark; --ink:#1d2226; --soft:#5a646c; --paper:#fdfdfc; --card:#f3f4f2; --line:#d8dbd8;
  --best:#0f6b3a; --s0:#1f6fb4; --s1:#c8553d; --s2:#3b8f5a; --s3:#8a5fb0; --s4:#a8792b; --s5:#6b7278; }
@media (prefers-color-scheme: dark) { :root { --ink:#e4e6e3; --soft:#9aa3a8; --paper:#16191b; --card:#1f2426;
  --line:#363d40; --best:#7fd6a2; --s0:#6db3ee; --s1:#f08f77; --s2:#77cf97; --s3:#c09ae4; --s4:#dcae62;
  --s5:#a9b1b6; } }
* { box-sizing: border-box; }
body { margin:0 auto; padding:1rem 1rem 4rem; max-width:64rem; background:var(--paper); color:var(--ink);
  font:16px/1.5 system-ui, sans-serif; overflow-wrap:anywhere; }
h1 { font-size:1.6rem; line-height:1.2; margin:1rem 0 .3rem; } h2 { font-size:1.25rem; margin:2.2rem 0 .4rem; }
h3 { font-size:1rem; margin:1.2rem 0 .3rem; } h4 { font-size:.9rem; margin:.6rem 0 .1rem; color:var(--soft); }
p, .note { margin:.3rem 0 .7rem; } .note { color:var(--soft); font-size:.875rem; }
.wide { overflow-x:auto; } table { border-collapse:collapse; width:100%; font-size:.875rem; }
th, td { padding:.35rem .6rem; overflow-wrap:break-word;
  text-align:left; vertical-align:top; border-bottom:1px solid var(--line); }
th { color:var(--soft); font-weight:600; } .number { text-align:right; white-space:nowrap;
  font-variant-numeric:tabular-nums; } .best { color:var(--best); font-weight:700; }
.cards { display:grid; gap:.8rem; grid-template-columns:repeat(auto-fit, minmax(min(17rem, 100%), 1fr)); }
.card { background:var(--card); border-radius:.5rem; padding:.5rem .9rem .8rem; }
ol, ul { margin:.2rem 0; padding-left:1.4rem; font-size:.875rem; }
strong { font-size:.9rem; } summary { cursor:pointer; font-weight:600; }
svg { width:100%; height:auto; display:block; } svg text { fill:var(--soft); font-size:12px; }
.axis { stroke:var(--line); } .curve { fill:none; stroke-width:2; } nav a { margin-right:.9rem; color:var(--s0); }
""" + "".join(f".s{i} {{ stroke:var(--s{i}); }} .f{i} {{ fill:var(--s{i}) !important; }}\n" for i in range(6))

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
{body}
</body>
</html>
"""


def text(value: object) -> str:
    """Any value as text that is safe inside an element or a quoted attribute.

    >>> text('<b>"x" & y</b>')
    '&lt;b&gt;&quot;x&quot; &amp; y&lt;/b&gt;'
    """
    return html.escape(str(value), quote=True)


def page_html(title: str, sections: Mapping[str, str], introduction: str = "") -> str:
    """The whole page.

    Args:
        title: plain text of the title.
        sections: plain text of each heading, and its markup; empty ones are left out.
        introduction: markup above the first section.
    """
    there = {heading: body for heading, body in sections.items() if body}
    links = "".join(f'<a href="#part{index}">{text(heading)}</a>' for index, heading in enumerate(there))
    parts = "\n".join(
        f'<section><h2 id="part{index}">{text(heading)}</h2>\n{body}\n</section>'
        for index, (heading, body) in enumerate(there.items())
    )
    body = f"<h1>{text(title)}</h1>\n{introduction}\n<nav>{links}</nav>\n{parts}"
    return PAGE.format(title=text(title), style=STYLE, body=body)


def table_html(columns: Sequence[str], rows: Iterable[Sequence[str]], numeric: Iterable[int] = ()) -> str:
    """A table that scrolls sideways on a narrow screen.

    Args:
        columns: plain text of the heads.
        rows: markup of the cells.
        numeric: columns that are set flush right.
    """
    right = set(numeric)
    mark = [' class="number"' if index in right else "" for index in range(len(columns))]
    head = "".join(f"<th{m}>{text(column)}</th>" for m, column in zip(mark, columns, strict=True))
    body = "".join(
        "<tr>" + "".join(f"<td{m}>{cell}</td>" for m, cell in zip(mark, row, strict=True)) + "</tr>\n" for row in rows
    )
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>'


def list_html(entries: Iterable[object], *, ordered: bool = False) -> str:
    """A list of plain texts."""
    tag = "ol" if ordered else "ul"
    return f"<{tag}>" + "".join(f"<li>{text(entry)}</li>" for entry in entries) + f"</{tag}>"


def lines_html(title: str, series: Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]], xlabel: str) -> str:
    """A line chart as inline SVG, in the colours of the page.

    Args:
        title: plain text above the chart.
        series: for each line its name, its x and its y values; points that are not finite are left out.
        xlabel: name of the horizontal axis.

    Returns:
        Empty text if there is no point to draw.
    """
    clean = {}
    for name, (x, y) in series.items():
        known = np.isfinite(x) & np.isfinite(y)
        if known.any():
            clean[name] = (x[known], y[known])
    if not clean:
        return ""
    width, height, left, right, top, bottom = 480.0, 260.0, 52.0, 12.0, 12.0, 38.0
    all_x, all_y = (np.concatenate([pair[axis] for pair in clean.values()]) for axis in (0, 1))
    x_ticks, y_ticks = ticks(all_x.min(), all_x.max()), ticks(all_y.min(), all_y.max())
    x_low, x_high = min(x_ticks[0], all_x.min()), max(x_ticks[-1], all_x.max())
    y_low, y_high = min(y_ticks[0], all_y.min()), max(y_ticks[-1], all_y.max())

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            left + (x - x_low) / max(x_high - x_low, 1e-12) * (width - left - right),
            height - bottom - (y - y_low) / max(y_high - y_low, 1e-12) * (height - top - bottom),
        )

    parts = []
    for tick in y_ticks:
        down = place(x_low, tick)[1]
        parts.append(f'<line class="axis" x1="{left}" x2="{width - right}" y1="{down:.1f}" y2="{down:.1f}"/>')
        parts.append(f'<text x="{left - 6}" y="{down + 4:.1f}" text-anchor="end">{tick:.4g}</text>')
    for tick in x_ticks:
        across = place(tick, y_low)[0]
        parts.append(f'<text x="{across:.1f}" y="{height - bottom + 16}" text-anchor="middle">{tick:.4g}</text>')
    parts.append(f'<text x="{(left + width) / 2}" y="{height - 4}" text-anchor="middle">{text(xlabel)}</text>')
    legend = []
    for index, (name, (x_values, y_values)) in enumerate(clean.items()):
        points = [place(x, y) for x, y in zip(x_values, y_values, strict=True)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(f'<polyline class="curve s{index % 6}" points="{path}"><title>{text(name)}</title></polyline>')
        parts += [f'<circle class="f{index % 6}" cx="{x:.1f}" cy="{y:.1f}" r="2.5"/>' for x, y in points]
        legend.append(f'<tspan class="f{index % 6}">{"● "}{text(name)}{"   "}</tspan>')
    names = (
        f'<svg viewBox="0 0 {width:.0f} 20" aria-hidden="true"><text x="{left}" y="14">{"".join(legend)}</text></svg>'
    )
    return (
        f'<div class="card"><h4>{text(title)}</h4><svg viewBox="0 0 {width:.0f} {height:.0f}" role="img" '
        f'aria-label="{text(title)}: {text(", ".join(clean))}">{"".join(parts)}</svg>{names}</div>'
    )


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers that cover low..high.

    >>> ticks(0.013, 0.041)
    [0.01, 0.015, 0.02, 0.025, 0.03, 0.035, 0.04, 0.045]
    >>> ticks(3, 3)
    [3.0]
    """
    if not high > low:
        return [float(low)]
    rough = (high - low) / about
    scale = 10.0 ** np.floor(np.log10(rough))
    step = float(scale * min((1, 2, 5, 10), key=lambda factor: abs(factor * scale - rough)))
    count = np.arange(np.floor(low / step + 1e-9), np.ceil(high / step - 1e-9) + 1)
    return [float(f"{value:.12g}") for value in count * step]
