"""The tables of `python -m benchmarks.operators`: whole, and as ranges."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.results_of import NONE, Results, Row, between, markdown, middle, numbers, of, starting, times

TYPES = ("float32", "bfloat16")
LARGE = "SD 1.5 self 2, 8, 4096, 4096, 40"
RANGES = (  # what it is called, part of the shape's name, without, column
    ("self-attention, 4096 keys, head size 40", LARGE, None, "torch / plain"),
    ("other self-attention, 64 to 1024 keys", " self ", LARGE, "torch / plain"),
    ("text, 77 keys, capturing three words", " text ", None, "torch / capture"),
    ("text and pixels in one softmax, capturing three words", " joint ", None, "torch / capture"),
    ("an edit beside formed maps", "", None, "maps / edit"),
    ("a capture beside formed maps", "", None, "maps / capture"),
)


def attention_ranges(results: Results) -> str:
    """Ratios from the least to the most, and how much of a large product's rate pydiff reached."""
    result = results["operators"]
    plain, maps = starting(result, "attention:"), starting(result, "edits and captures")
    lines = []
    for shown, part, without, column in RANGES:
        table = maps if column.startswith("maps") else plain
        rows = [row for row in table if part in row["shape"] and row["shape"] != without]
        cells = []
        for dtype in TYPES:
            fitting = [row for row in rows if row["type"] == dtype]
            cells += [between(middle(row[column]) for row in fitting), _shares(fitting)]
        lines.append((shown, *cells))
    return markdown(("", "float32", "of peak", "bfloat16", "of peak"), lines)


def _shares(rows: Sequence[Row]) -> str:
    known = [numbers(row["of peak"].rstrip("%"))[0] for row in rows if row.get("of peak")]
    if not known:
        return NONE
    least, most = min(known), max(known)
    return f"{most:.0f}%" if least == most else f"{least:.0f} to {most:.0f}%"


def steps(results: Results) -> str:
    """The fused step, by the picture's size, with dynamic thresholding and without."""
    rows = starting(results["operators"], "guided step")
    copied = "of a copy's bytes per second"
    lines = []
    for size in ("64x64", "256x256", "1024x1024"):
        found = [of(rows, operator=f"guided_step {size}{thresholding}") for thresholding in (" dynamic", "")]
        lines.append((size, *(cell for row in found for cell in (times(middle(row["ratio"])), row.get(copied, NONE)))))
    heads = ("dynamic thresholding", "of a copy's rate", "without thresholding", "of a copy's rate")
    return markdown(("picture", *heads), lines)


def norms(results: Results) -> str:
    rows = [row for row in starting(results["operators"], "guided step") if row["operator"].startswith("group_norm")]
    lines = (
        (row["operator"].removeprefix("group_norm_silu "), f"{row['pydiff us']} us", times(middle(row["ratio"])),
         row.get("of a copy's bytes per second", NONE))
        for row in rows
    )  # fmt: skip
    return markdown(("GroupNorm with SiLU", "pydiff", "beside torch", "of a copy's rate"), lines)


def attention(results: Results) -> str:
    """Every shape."""
    rows = starting(results["operators"], "attention:")
    columns = ("batch, heads, queries, keys, head size", "type", "torch", "pydiff", "ratio", "of peak", "capturing",
               "ratio")  # fmt: skip
    lines = []
    for row in rows:
        plain = (f"{row['torch us']} us", f"{row['plain us']} us", times(middle(row["torch / plain"])))
        captured = f"{row['capture us']} us" if row["capture us"] else NONE
        ratio = times(middle(row["torch / capture"]))
        lines.append((row["shape"], row["type"], *plain, row.get("of peak", NONE), captured, ratio))
    return markdown(columns, lines, left=2)
