"""Line charts as inline SVG, in the colours of the page."""

from __future__ import annotations

import html
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

N_SERIES = 8
"""Colours of lines; more lines begin again."""

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 400.0, 230.0, 46.0, 10.0, 10.0, 36.0

Line = tuple[NDArray[np.float64], NDArray[np.float64]]


def lines_html(title: str, series: Mapping[str, Line], xlabel: str, note: str = "") -> str:
    """A line chart with its title, its legend and the last value of each line.

    Args:
        title: plain text above the chart.
        series: for each line its name, its x and its y values; points that are not finite are left out.
        xlabel: name of the horizontal axis.
        note: plain text that says what is drawn.

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
    all_x, all_y = (np.concatenate([pair[axis] for pair in clean.values()]) for axis in (0, 1))
    x_ticks, y_ticks = ticks(all_x.min(), all_x.max()), ticks(all_y.min(), all_y.max(), 4)
    x_ticks = [tick for tick in x_ticks if tick == round(tick)]  # epochs and nights are whole
    x_low, x_high = min(all_x), max(all_x)
    y_low, y_high = min(y_ticks[0], all_y.min()), max(y_ticks[-1], all_y.max())

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            LEFT + (x - x_low) / max(x_high - x_low, 1e-12) * (WIDTH - LEFT - RIGHT),
            HEIGHT - BOTTOM - (y - y_low) / max(y_high - y_low, 1e-12) * (HEIGHT - TOP - BOTTOM),
        )

    parts = []
    for tick in y_ticks:
        down = place(x_low, tick)[1]
        parts.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{down:.1f}" y2="{down:.1f}"/>')
        parts.append(f'<text x="{LEFT - 7}" y="{down + 4:.1f}" text-anchor="end">{tick:.4g}</text>')
    for tick in x_ticks:
        if x_low <= tick <= x_high:
            across = place(tick, y_low)[0]
            parts.append(f'<text x="{across:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{tick:.4g}</text>')
    parts.append(f'<text x="{(LEFT + WIDTH) / 2}" y="{HEIGHT - 3}" text-anchor="middle">{html.escape(xlabel)}</text>')
    legend = []
    for index, (name, (x_values, y_values)) in enumerate(clean.items()):
        points = [place(x, y) for x, y in zip(x_values, y_values, strict=True)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        colour, label = index % N_SERIES, html.escape(name)
        parts.append(f'<polyline class="curve s{colour}" points="{path}"><title>{label}</title></polyline>')
        ends = points if len(points) < 2 else points[-1:]
        parts += [f'<circle class="f{colour}" cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>' for x, y in ends]
        swatch = f'<svg viewBox="0 0 10 10" aria-hidden="true"><circle class="f{colour}" cx="5" cy="5" r="4"/></svg>'
        legend.append(f"<li>{swatch}{label} <b>{y_values[-1]:.3g}</b></li>")
    head = f"<h3>{html.escape(title)}</h3>" + (f'<p class="note">{html.escape(note)}</p>' if note else "")
    return (
        f'<div class="card chart">{head}<svg viewBox="0 0 {WIDTH:.0f} {HEIGHT:.0f}" role="img" '
        f'aria-label="{html.escape(title)}: {html.escape(", ".join(clean))}">{"".join(parts)}</svg>'
        f'<ul class="legend">{"".join(legend)}</ul></div>'
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
