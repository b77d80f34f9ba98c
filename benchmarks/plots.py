"""docs' plots of benchmarks/results."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib.figure import Figure

from benchmarks.results_of import Results, middle, of, ours, starting
from benchmarks.tables import COMPARED
from benchmarks.workloads import TITLES

INK, QUIET, LINE = "#1f2933", "#7b8794", "#d9dee3"
COLOURS = ("#9aa5b1", "#6f8fb8", "#3f6fae", "#2f4b7c", "#c98f4a", "#7aa874", "#3f7d4b")
OWN = "#c8402f"
NAMES = ("diffusers float32", "diffusers bfloat16", "diffusers bfloat16, channels_last", "torch.compile bfloat16",
         "ONNX Runtime float32", "OpenVINO float32", "OpenVINO bfloat16")  # fmt: skip
STYLE: Any = {
    "font.family": "DejaVu Sans", "font.size": 8, "axes.edgecolor": LINE, "axes.labelcolor": INK, "text.color": INK,
    "xtick.color": QUIET, "ytick.color": INK, "axes.spines.top": False, "axes.spines.right": False,
}  # fmt: skip


def networks(results: Results) -> Figure | None:
    """How many of pydiff's bfloat16 times an engine takes for a call."""
    made = results.get("networks")
    if made is None:
        return None
    shown = {title: made[title] for title in TITLES.values() if ours(made.get(title, ()), "bfloat16")}
    figure = Figure(figsize=(8, 1 + 1.15 * len(shown)), layout="constrained")
    axes = figure.subplots()
    height = 0.8 / len(COMPARED)
    for place, (name, (_, engine, dtype), colour) in enumerate(zip(NAMES, COMPARED, COLOURS, strict=True)):
        ratios = [middle(of(rows, engine=engine, type=dtype).get("of pydiff bfloat16")) for rows in shown.values()]
        places = [row + (place - len(COMPARED) / 2 + 0.5) * height for row in range(len(shown))]
        bars = axes.barh(places, [ratio or 0 for ratio in ratios], 0.9 * height, color=colour, label=name)
        axes.bar_label(bars, [f"{ratio:.2f}" if ratio else "" for ratio in ratios], padding=3, fontsize=6, color=QUIET)
    axes.axvline(1, color=OWN, linewidth=1.2)
    axes.set_yticks(range(len(shown)), [title.replace(", ", ",\n") for title in shown])
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("time of one guided call beside pydiff's in bfloat16 (the line): longer is slower")
    figure.legend(frameon=False, fontsize=7, loc="outside upper center", ncols=4)
    return figure


def attention(results: Results) -> Figure | None:
    """torch's time beside pydiff's, by shape."""
    rows = starting(results.get("operators", {}), "attention:")
    shapes = list(dict.fromkeys(row["shape"] for row in rows))
    if not shapes:
        return None
    figure = Figure(figsize=(8, 0.6 + 0.28 * len(shapes)), layout="constrained")
    axes = figure.subplots()
    for place, (dtype, colour) in enumerate((("float32", COLOURS[1]), ("bfloat16", OWN))):
        ratios = [middle(of(rows, shape=shape, type=dtype)["torch / plain"]) or 0 for shape in shapes]
        axes.barh([row + 0.36 * (place - 0.5) for row in range(len(shapes))], ratios, 0.34, color=colour, label=dtype)
    axes.axvline(1, color=INK, linewidth=0.8)
    axes.set_yticks(range(len(shapes)), shapes)
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("attention (batch, heads, queries, keys, head size): torch's time beside pydiff's")
    axes.legend(frameon=False, fontsize=7, loc="lower right")
    return figure


PLOTS = {"networks.png": networks, "attention.png": attention}


def drawn(figure: Figure) -> bytes:
    """As PNG; the same figure gives the same bytes."""
    held = io.BytesIO()
    figure.savefig(held, format="png", dpi=150, metadata={"Software": None})
    return held.getvalue()


def write(results: Results, home: Path) -> Iterator[Path]:
    """Plots that changed, as they are written."""
    with matplotlib.rc_context(STYLE):
        for name, draw in PLOTS.items():
            figure, path = draw(results), home / name
            made = None if figure is None else drawn(figure)
            if made is not None and (not path.exists() or path.read_bytes() != made):
                path.write_bytes(made)
                yield path
