"""Small figures for the metadata of assets: what people would rather look at than read.

matplotlib is imported inside the functions, with the `Agg` canvas, and no global state of pyplot is touched, so the
functions are safe in threads and leave nothing open.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIZE_INCHES = (6.0, 3.0)
DPI = 100
COLORS = ("#1f6fb4", "#c8553d", "#3b8f5a", "#8a5fb0", "#a8792b", "#4d4d4d")
"""Distinct in hue and in lightness, on white."""


def png(figure: Figure) -> bytes:
    """The figure as a PNG of 6 x 3 inches at 100 dots an inch (or the size that it was made with)."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()


def png_markdown(figure: Figure, alt: str = "figure") -> str:
    """The figure as a markdown image with the PNG inside it, for the metadata of an asset.

    Args:
        figure: a matplotlib figure.
        alt: what the picture shows, for those who cannot see it.
    """
    text = " ".join(alt.replace("[", "(").replace("]", ")").split())
    return f"![{text}](data:image/png;base64,{base64.b64encode(png(figure)).decode('ascii')})"


def training_curves(training: pd.DataFrame | Mapping[str, pd.DataFrame]) -> Figure:
    """Loss and validation Recall@20 over the epochs, side by side.

    Args:
        training: the table `training.parquet` of one model (epoch, loss, validation_recall), or one such table a model.
            A column that a table lacks, and a model without an epoch, are left out. A dot marks the best epoch.
    """
    from matplotlib.ticker import MaxNLocator

    tables = {"": training} if isinstance(training, pd.DataFrame) else dict(training)
    figure, axes = _figure(columns=2)
    for axis, column, title in zip(
        axes, ("loss", "validation_recall"), ("train loss", "validation Recall@20"), strict=True
    ):
        for (name, table), color in zip(tables.items(), _colors(len(tables)), strict=True):
            if column not in table or table[column].notna().sum() == 0:
                continue
            known = table[table[column].notna()]
            axis.plot(known["epoch"], known[column], color=color, label=name or None, linewidth=1.6)
            if column == "validation_recall":
                best = int(known[column].to_numpy().argmax())
                axis.plot(known["epoch"].iloc[best], known[column].iloc[best], "o", color=color, markersize=5)
        axis.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
        _finish(axis, title=title, xlabel="epoch")
    if any(tables) and len(tables) > 1:
        axes[0].legend(fontsize=8, frameon=False)
    return figure


def over_nights(lines: Mapping[str, Sequence[float | None]], title: str) -> Figure:
    """One line a measure over consecutive nights, the last one at 0.

    Args:
        lines: values by name, oldest first; None where a night has none.
        title: what they are.
    """
    from matplotlib.ticker import MaxNLocator

    figure, (axis,) = _figure()
    for (name, values), color in zip(lines.items(), _colors(len(lines)), strict=True):
        nights = np.arange(len(values)) - len(values) + 1
        known = np.array([np.nan if value is None else float(value) for value in values])
        axis.plot(nights, known, ".-", color=color, label=name, linewidth=1.6)
    axis.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
    _finish(axis, title=title, xlabel="nights (0 is this one)")
    if lines:
        axis.legend(fontsize=8, frameon=False)
    return figure


def degree_distribution(degrees: ArrayLike, title: str = "Degrees") -> Figure:
    """How many nodes have at least a given degree, on two logarithmic axes.

    Args:
        degrees: number of neighbours of each node; nodes without any are told in the title.
        title: what the nodes are.
    """
    values = np.asarray(degrees, dtype=np.float64).ravel()
    alone = int((values <= 0).sum())
    distinct, counts = np.unique(values[values > 0], return_counts=True)
    figure, (axis,) = _figure()
    if len(distinct):
        axis.loglog(distinct, np.cumsum(counts[::-1])[::-1], ".-", color=COLORS[0], markersize=4, linewidth=1)
    note = f" ({alone:,} without a neighbour)" if alone else ""
    _finish(axis, title=title + note, xlabel="degree", ylabel="nodes with at least this degree")
    return figure


def histogram(values: ArrayLike, title: str, xlabel: str, log: bool = False, counts: ArrayLike | None = None) -> Figure:
    """A histogram of at most 40 bars; whole numbers of a small range get one bar each.

    Args:
        values: the numbers; those that are not finite are left out.
        title: what is counted.
        xlabel: name and unit of the horizontal axis.
        log: a logarithmic vertical axis, for long tails.
        counts: how often each of the values occurs; once unless given.
    """
    numbers = np.asarray(values, dtype=np.float64).ravel()
    times = np.ones(len(numbers)) if counts is None else np.asarray(counts, dtype=np.float64)
    kept = np.isfinite(numbers) & (times > 0)
    numbers, times = numbers[kept], times[kept]
    figure, (axis,) = _figure()
    if len(numbers):
        axis.hist(
            numbers,
            bins=_bins(numbers, float(times.sum())),
            weights=times,
            color=COLORS[0],
            edgecolor="white",
            linewidth=0.5,
            log=log,
        )
    _finish(axis, title=title, xlabel=xlabel, ylabel="count")
    return figure


def metric_bars(values: pd.DataFrame, title: str, spreads: pd.DataFrame | None = None) -> Figure:
    """Grouped bars: a group a metric, a bar a model.

    Args:
        values: index model, one column a metric.
        title: what is compared.
        spreads: laid out like `values`; lines on the bars show it.
    """
    figure, (axis,) = _figure()
    n_models, n_metrics = values.shape
    width = 0.8 / max(n_models, 1)
    places = np.arange(n_metrics)
    for index, (model, color) in enumerate(zip(values.index, _colors(n_models), strict=True)):
        error = None if spreads is None else spreads.loc[model].fillna(0.0).to_numpy(dtype=np.float64)
        offset = (index - (n_models - 1) / 2) * width
        axis.bar(places + offset, values.loc[model].to_numpy(np.float64), width, yerr=error, color=color, label=model)
    axis.set_xticks(places, [str(column) for column in values.columns])
    if n_models:
        axis.legend(fontsize=8, frameon=False)
    _finish(axis, title=title)
    return figure


def cover_curves(
    curves: Mapping[str, tuple[ArrayLike, ArrayLike]], *, budget: int, elbow: int, title: str = "Coverage by budget"
) -> Figure:
    """Covered share against budget, one line a solver, with the budget in use and the elbow marked.

    Args:
        curves: budgets and covered shares by solver.
        budget: Z in use.
        elbow: Z where the returns diminish most.
        title: what is covered.
    """
    figure, (axis,) = _figure()
    for (name, (budgets, shares)), color in zip(curves.items(), _colors(len(curves)), strict=True):
        x, y = np.asarray(budgets), np.asarray(shares)
        axis.plot(x, y, "o-" if len(x) < 12 else "-", color=color, label=name, linewidth=1.4, markersize=4)
    axis.axvline(budget, color="#4d4d4d", linestyle="--", linewidth=1, label=f"budget {budget:,}")
    axis.axvline(elbow, color="#4d4d4d", linestyle=":", linewidth=1, label=f"elbow {elbow:,}")
    axis.legend(fontsize=8, frameon=False, loc="lower right")
    _finish(axis, title=title, xlabel="selected cliques", ylabel="share of the value covered")
    return figure


def ranked(values: ArrayLike, title: str, ylabel: str) -> Figure:
    """Values by rank, the first at 1, on a logarithmic axis where they are all positive.

    Args:
        values: in the order of their ranks.
        title: what they are.
        ylabel: name and unit of a value.
    """
    numbers = np.asarray(values, dtype=np.float64)
    figure, (axis,) = _figure()
    axis.bar(np.arange(1, len(numbers) + 1), numbers, width=1.0, color=COLORS[0])
    if len(numbers) and numbers.min() > 0:
        axis.set_yscale("log")
    _finish(axis, title=title, xlabel="rank", ylabel=ylabel)
    return figure


def square(values: ArrayLike, title: str, label: str, what: str = "rank") -> Figure:
    """A square matrix as a picture, its diagonal left out, with the scale beside it.

    Args:
        values: [n, n].
        title: what the rows and columns are.
        label: name of a value.
        what: name of both axes.
    """
    matrix = np.array(values, dtype=np.float64)
    np.fill_diagonal(matrix, np.nan)
    figure, (axis,) = _figure()
    if len(matrix) > 1:
        image = axis.imshow(matrix, cmap="viridis", interpolation="nearest", vmin=0)
        figure.colorbar(image, ax=axis, label=label)
    _finish(axis, title=title, xlabel=what, ylabel=what)
    axis.grid(False)
    return figure


def scatter(x: ArrayLike, y: ArrayLike, title: str, xlabel: str, ylabel: str) -> Figure:
    """Points with the means of ten equally large slices of them along x.

    Args:
        x: values [n].
        y: values [n].
        title: what a point is.
        xlabel: name and unit of x.
        ylabel: name and unit of y.
    """
    across, up = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    figure, (axis,) = _figure()
    if len(across):
        axis.plot(across, up, ".", color=COLORS[0], markersize=2, alpha=0.3)
        slices = np.array_split(np.argsort(across, kind="stable"), min(10, len(across)))
        middles = [(across[part].mean(), up[part].mean()) for part in slices]
        axis.plot(*zip(*middles, strict=True), "o-", color=COLORS[1], markersize=4, linewidth=1.4)
    _finish(axis, title=title, xlabel=xlabel, ylabel=ylabel)
    return figure


def heatmaps(panels: Mapping[str, ArrayLike], label: str, xlabel: str, ylabel: str) -> Figure:
    """Matrices side by side on one scale from -1 to 1, as cosines have it.

    Args:
        panels: matrices by title.
        label: name of a value.
        xlabel: what a column is.
        ylabel: what a row is.
    """
    from matplotlib.ticker import MaxNLocator

    figure, axes = _figure(columns=max(len(panels), 1))
    for axis, (title, values) in zip(axes, panels.items(), strict=False):
        matrix = np.atleast_2d(np.asarray(values, dtype=np.float64))
        image = axis.imshow(matrix, cmap="RdBu_r", vmin=-1, vmax=1, aspect="auto", interpolation="nearest")
        _finish(axis, title=title, xlabel=xlabel, ylabel=ylabel)
        axis.grid(False)
        axis.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
        axis.yaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
    if panels:
        figure.colorbar(image, ax=list(axes), label=label)
    return figure


def _bins(numbers: NDArray[np.float64], total: float) -> int | list[float]:
    low, high = numbers.min(), numbers.max()
    if np.array_equal(numbers, np.round(numbers)) and high - low < 40:
        return [float(edge) for edge in np.arange(low, high + 2) - 0.5]
    return min(40, max(10, int(np.sqrt(total))))


def _figure(columns: int = 1) -> tuple[Figure, Sequence[Axes]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE_INCHES, dpi=DPI, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure, [figure.add_subplot(1, columns, index + 1) for index in range(columns)]


def _colors(n: int) -> list[str]:
    return [COLORS[index % len(COLORS)] for index in range(n)]


def _finish(axis: Axes, *, title: str, xlabel: str = "", ylabel: str = "") -> None:
    axis.set_title(title, fontsize=10)
    axis.set_xlabel(xlabel, fontsize=9)
    axis.set_ylabel(ylabel, fontsize=9)
    axis.tick_params(labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="y", alpha=0.25)
