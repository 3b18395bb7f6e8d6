"""The report's figures, as SVG texts whose bytes depend on the numbers alone."""

import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator, PercentFormatter

# Okabe and Ito's colours, which colour-blind people can tell apart.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_DASHES = {"synthetic": "-", "mixed": "--"}
#: Of images that another strategy selected, for comparison.
_COMPARED = ("-.", (0, (1, 1)))
#: Up to so many classes the confusions' cells have room for a number.
_NUMBERED = 40
#: Longer ids would leave no room for the cells.
_LONGEST_LABEL = 32
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "synth-pipeline",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
}


def accuracy_against_scale(rows: Sequence[Mapping[str, Any]]) -> str:
    """Top-1 with its 95 % interval against the number of synthetic images.

    Args:
        rows: of `scores.parquet` with metric `top1`.

    Returns:
        SVG: a line for each backbone and regime, a band across for real photos only, and chance.
    """
    with _style():
        figure, axes = plt.subplots(figsize=(7.2, 4.2), layout="constrained")
        backbones = sorted({row["backbone"] for row in rows})
        colour_of = {name: _COLOURS[i % len(_COLOURS)] for i, name in enumerate(backbones)}
        lines: dict[tuple[str, str], list[Mapping[str, Any]]] = defaultdict(list)
        for row in rows:
            if row["regime"] == "real":
                colour = colour_of[row["backbone"]]
                axes.axhspan(row["low"], row["high"], color=colour, alpha=0.10, lw=0)
                label = f"{row['backbone']}, real photos only"
                axes.axhline(row["mean"], color=colour, ls=":", lw=1.6, label=label)
            else:
                lines[row["backbone"], row["regime"]].append(row)
        compared = sorted({regime for _, regime in lines} - set(_DASHES))
        dashes = _DASHES | dict(zip(compared, _COMPARED, strict=False))
        for (backbone, regime), members in sorted(lines.items()):
            members = sorted(members, key=lambda row: row["scale"])
            scales = [row["scale"] for row in members]
            means = [row["mean"] for row in members]
            spread = [
                [row["mean"] - row["low"] for row in members],
                [row["high"] - row["mean"] for row in members],
            ]
            axes.errorbar(
                scales,
                means,
                yerr=spread,
                color=colour_of[backbone],
                ls=dashes[regime],
                marker="s" if regime in compared else "o",
                ms=5,
                capsize=3,
                label=f"{backbone}, {regime}",
            )
        chance = 1 / rows[0]["classes"]
        axes.axhline(chance, color="#888888", lw=1, ls=(0, (1, 3)), label="chance")
        axes.set_xlabel("synthetic images in training")
        axes.set_ylabel("Top-1 on held-out real photos")
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylim(bottom=0)
        axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
        return _svg(figure)


def true_class_ranks(ranks: Sequence[int], classes: int) -> str:
    """How many synthetic images have their own class as nearest prototype, second nearest, ..."""
    with _style():
        figure, axes = plt.subplots(figsize=(5.2, 2.6), layout="constrained")
        shown = min(classes, 20)
        counts = [0] * shown
        for rank in ranks:
            counts[min(rank, shown) - 1] += 1
        axes.bar(range(1, shown + 1), counts, color=_COLOURS[0], width=0.8)
        more = f" ({shown} or more)" if classes > shown else ""
        axes.set_xlabel(f"rank of the true class among prototypes{more}")
        axes.set_ylabel("synthetic images")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        return _svg(figure)


def confusions(counts_KK: np.ndarray, classes: Sequence[str]) -> str:
    """Which class is taken for which, in shares of each row; what does not occur is left blank.

    Args:
        counts_KK: how many photos of each class (rows) are taken for each (columns).
        classes: their ids, in that order.
    """
    count = len(classes)
    rows, columns = counts_KK.nonzero()
    found = counts_KK[rows, columns]
    shares = found / counts_KK.sum(1)[rows]
    # A class takes the space of its name, until a hundred of them fill the page.
    cell_in = min(0.3, 9.0 / count)
    side_in = max(2.4, cell_in * count)
    with _style({"axes.grid": False}):
        figure, axes = plt.subplots(figsize=(side_in + 1.8, side_in + 1.4), layout="constrained")
        own = rows == columns
        for chosen, colour in ((own, _COLOURS[0]), (~own, _COLOURS[1])):
            for row, column, share in zip(
                rows[chosen], columns[chosen], shares[chosen], strict=True
            ):
                corner = (column - 0.5, row - 0.5)
                alpha = 0.2 + 0.8 * share
                axes.add_patch(Rectangle(corner, 1, 1, color=colour, alpha=alpha, lw=0))
        if count <= _NUMBERED:
            for row, column, number, share in zip(rows, columns, found, shares, strict=True):
                ink = "white" if share > 0.5 else "black"
                axes.text(column, row, str(number), ha="center", va="center", fontsize=7, color=ink)
        size = max(3.5, min(8.0, 60 * cell_in))
        names = [_shortened(name) for name in classes]
        axes.set_xticks(range(count), names, rotation=90, fontsize=size)
        axes.set_yticks(range(count), names, fontsize=size)
        axes.set_xlim(-0.5, count - 0.5)
        axes.set_ylim(count - 0.5, -0.5)
        axes.set_aspect("equal")
        axes.set_xlabel("taken for")
        axes.set_ylabel("class")
        # Lines to follow from a name to a cell.
        axes.set_axisbelow(True)
        axes.grid(True, lw=0.3, alpha=0.4)
        return _svg(figure)


def _shortened(name: str) -> str:
    """A class's id with its end, which tells long ones apart."""
    return name if len(name) <= _LONGEST_LABEL else f"{name[: _LONGEST_LABEL - 11]}…{name[-10:]}"


def _style(more: Mapping[str, Any] | None = None) -> AbstractContextManager[None]:
    """Our style alone: a `matplotlibrc`, of the working folder for instance, changes nothing."""
    return plt.style.context(["default", {**_STYLE, **(more or {})}])


def _svg(figure: Figure) -> str:
    text = io.StringIO()
    # Without a date, the same numbers give the same bytes.
    figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    plt.close(figure)
    svg = text.getvalue()
    return svg[svg.index("<svg") :]
