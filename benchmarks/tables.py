"""The tables of README.md and docs/performance.md, made from benchmarks/results."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from benchmarks import targets
from benchmarks.results_of import (
    NONE,
    Results,
    Row,
    markdown,
    middle,
    numbers,
    of,
    ours,
    seconds,
    share,
    starting,
    times,
)
from benchmarks.workloads import TITLES

F32, BF16 = "float32", "bfloat16"
COMPARED = (  # heading, engine, type
    ("diffusers float32", "diffusers", F32),
    ("bfloat16", "diffusers", BF16),
    ("channels_last", targets.LAST, BF16),
    ("compiled, bfloat16", targets.COMPILED, BF16),
    ("ONNX Runtime float32", "ONNX Runtime", F32),
    ("OpenVINO float32", "OpenVINO", F32),
    ("bfloat16", "OpenVINO", BF16),
)
UNKNOWN = "Not measured yet."
PLOT = "![the time of a call beside pydiff's in bfloat16]({}networks.png)"
RUNS = "embedded cascade, one picture, float32"
PROCESS = "a process of its own"
TORCH, ONNX, EAGER, OPENVINO = "pydiff torch", "pydiff ONNX Runtime", "diffusers eager", "OpenVINO"


def networks(results: Results) -> str:
    """One line a network: pydiff's times, and how many of the bfloat16 one the others take."""
    columns = ("", "pydiff bfloat16", "of peak", *(heading for heading, *_ in COMPARED), "pydiff float32", "of peak")
    lines = []
    for title in TITLES.values():
        rows = results.get("networks", {}).get(title, ())
        own = {dtype: ours(rows, dtype) for dtype in (BF16, F32)}
        if not own[BF16]:
            continue
        ratios = [middle(of(rows, engine=peer, type=dtype).get(f"of pydiff {BF16}")) for _, peer, dtype in COMPARED]
        fast, exact = ((seconds(own[dtype].get("s")), share(own[dtype].get("of peak"))) for dtype in (BF16, F32))
        lines.append((title, *fast, *map(times, ratios), *exact))
    return f"{markdown(columns, lines)}\n\n{PLOT.format('docs/')}" if lines else UNKNOWN


def network(title: str) -> Callable[[Results], str]:
    """All that was measured of one network."""

    def table(results: Results) -> str:
        result = results.get("networks", {})
        rows = result.get(title, ())
        facts = {row["what"]: row["number"] for row in result.get(f"{title}: the call", ())}
        rates = result.get(f"{title}: the machine meanwhile", ())
        if not rows:
            return UNKNOWN
        told = f"{facts['parameters'] / 1e6:.1f} M parameters, {facts['GFLOP']:.1f} GFLOP a call, of which "
        told += f"{facts['GFLOP of the text alone']:.2f} of the text alone. The machine meanwhile: "
        told += "; ".join(" ".join(f"{r['what']} {r['type']} {r['rate']:.0f} {r['unit']}".split()) for r in rates)
        columns = ("engine", "type", "time", "slowest", "beside pydiff float32", "bfloat16", "GFLOP/s", "of peak",
                   "largest error", "mean error", "ready after")  # fmt: skip
        return f"{told}.\n\n{markdown(columns, map(_contender, rows), left=2)}"

    return table


def _contender(row: Row) -> tuple[str, ...]:
    timed, ready = row["s"], middle(row["ready after s"])
    if not timed:
        return row["engine"], row["type"], row["remark"], *[""] * 8
    ratios = (middle(row[f"of pydiff {dtype}"]) for dtype in (F32, BF16))
    errors = (f"{row[name]:.0e}" for name in ("largest error", "mean error"))
    rates = f"{row['GFLOP/s']:.0f}", share(row["of peak"])
    made = "" if ready is None else f"{ready:.0f} s"
    worst = seconds(max(timed["seconds"]))
    return row["engine"], row["type"], seconds(timed), worst, *map(times, ratios), *rates, *errors, made


def measured_on(results: Results) -> str:
    """The machine and the versions of the networks' run."""
    result = results.get("networks")
    if not result:
        return UNKNOWN
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    where = f"{result['processor']} ({result['machine'].split(',')[0]}), {result['threads']} threads; {versions}."
    return f"{where}\n\n{PLOT.format('')}"


def tasks(results: Results) -> str:
    result = results["tasks"]
    rows, memory = starting(result, RUNS), starting(result, "peak memory")
    columns = ("to", "pydiff", "diffusers", "ratio", "pydiff bfloat16", "ratio", "off by", "peak memory, pydiff",
               "diffusers")  # fmt: skip
    lines = []
    for row in rows:
        side, held = row["size"], of(memory, size=row["size"])
        fast = seconds(row.get("pydiff bfloat16 s")), times(middle(row.get("its ratio")))
        plain = seconds(row["pydiff s"]), seconds(row["diffusers s"]), times(float(row["ratio"]))
        off, held_by = row.get("its difference", NONE), (f"{held[name]} MiB" for name in ("pydiff", "diffusers"))
        lines.append((f"{side}x{side}", *plain, *fast, off, *held_by))
    return markdown(columns, lines)


def commands(results: Results) -> str:
    """From typed to written."""
    rows = starting(results["tasks"], PROCESS)
    return markdown(("", "from typed to done"), ((f"`{row['what']}`", seconds(row["seconds"])) for row in rows))


def edit(results: Results) -> str:
    both = {name: starting(results["edit"], start) for name, start in (("embedded", "embedded:"), ("sd15", "sd15:"))}
    columns = ("", "embedded, 25 steps", "Stable Diffusion 1.5's sizes, random weights, 256x256, 2 steps")
    names = {"two pictures": "two pictures", "edit": "edit", "edit, blend, capture": "edit, local blend and capture",
             "maps formed": "the edit with formed maps"}  # fmt: skip
    lines = []
    for name, shown in names.items():
        rows = [of(table, **{"": name}) for table in both.values()]
        plain = name == "two pictures"
        lines.append((shown, *(seconds(r["seconds"]) if plain else times(middle(r["of two pictures"])) for r in rows)))
    return markdown(columns, lines)


def inpaint(results: Results) -> str:
    result = results["inpaint"]
    rows: Iterable[Row] = starting(result, "filling a hole")
    lines = (
        (row[""], seconds(row["pydiff s"]), seconds(row["diffusers s"]), times(float(row["ratio"]))) for row in rows
    )
    return markdown(("", "pydiff", "diffusers", "ratio"), lines)


def runtimes(results: Results) -> str:
    result = results["runtimes"]
    engines = (ONNX, TORCH, EAGER, OPENVINO)
    columns = ("", "pydiff, ONNX Runtime", "pydiff, torch", "diffusers", "OpenVINO")
    process, runs = starting(result, PROCESS), starting(result, RUNS)

    def line(what: str, rows: Sequence[Row], column: str, form: Callable[[Any], str], **wanted: str) -> tuple[str, ...]:
        found = (of(rows, runtime=engine, **wanted).get(column) for engine in engines)
        return what, *("" if value is None else form(value) for value in found)

    def mebibytes(value: Any) -> str:
        return f"{value} MiB"

    sizes = ("64x64", "256x256")
    starts = (f"from process start to a {sizes[0]} file", f"to a {sizes[1]} file")
    memories, whole = ("peak memory of that, 64x64", sizes[1]), ("a run to 64x64, everything loaded", "to 256x256")
    return markdown(
        columns,
        [
            line("installed", starting(result, "installed"), "MB", lambda value: f"{value} MB"),
            *(line(what, process, "s", seconds, picture=size) for what, size in zip(starts, sizes, strict=True)),
            *(line(what, process, "MiB", mebibytes, picture=size) for what, size in zip(memories, sizes, strict=True)),
            *(line(what, runs, "s", seconds, picture=size) for what, size in zip(whole, sizes, strict=True)),
        ],
    )


def approximations(results: Results) -> str:
    """What each gains, and what its pictures are still worth."""
    rows = starting(results.get("approximations", {}), "approximations")
    if not rows:
        return UNKNOWN
    columns = ("", "time", "beside the exact run", "PSNR beside its pictures", "scenes right", "unseen combinations")
    lines = []
    for row in rows:
        far = f"{row['PSNR dB']:.1f} dB" if row["PSNR dB"] != "" else "-"
        right = [f"{row[kind]} of {row[count]}" for kind, count in (("right", "n"), ("unseen right", "unseen n"))]
        lines.append((f"`{row['approximation']}`", seconds(row["s"]), times(row["gain"]), far, *right))
    return markdown(columns, lines)


def scenes(results: Results) -> str:
    rows: Mapping[str, Mapping[str, int]] = results["scenes"]["table"]
    lines = ((name, f"{row['right'] / row['total']:.1%}", str(row["total"])) for name, row in rows.items())
    return markdown(("category", "right", "n"), lines)


def edits(results: Results) -> str:
    rows = starting(results["edits"], "edits of the embedded model")
    names = {"colour": "the colour of one object", "shape": "the shape of one object",
             "background": "the background, added to the prompt"}  # fmt: skip
    columns = ("what is changed", "done", "all else kept", "overlap of the rest, median (10th percentile)",
               "no control: done", "kept")  # fmt: skip
    lines = []
    for kind, shown in names.items():
        one, plain = (of(rows, **{"what is changed": name}) for name in (kind, f"{kind}, no control"))
        half, tenth = numbers(one["overlap of the rest"])
        overlap = f"{half:.2f} ({tenth:.2f})"
        lines.append((shown, one["done"], one["all else kept"], overlap, plain["done"], plain["all else kept"]))
    return markdown(columns, lines)


def instructions(results: Results) -> str:
    rows = starting(results["instructions"], "instructions to the embedded model")
    names = {"colour": "the colour of one object", "shape": "its shape", "object": "both", "all": "all"}
    columns = ("what is to change", "instructions", "done", "all else kept", "done and kept")
    found = [(shown, of(rows, **{"what is changed": name})) for name, shown in names.items()]
    cells = ("instructions", "done", "all else kept", "both")
    return markdown(columns, [(shown, *(str(one[cell]) for cell in cells)) for shown, one in found])
