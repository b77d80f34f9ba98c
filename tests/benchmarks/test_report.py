"""Tables of the pages are those that the results give."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks import report, tables, targets
from benchmarks.results_of import between, load, markdown, seconds, times
from benchmarks.workloads import TITLES


@pytest.mark.parametrize("name", report.PAGES)
def test_pages_have_what_the_results_give(name: str) -> None:
    page = (report.ROOT / name).read_text(encoding="utf-8")
    assert report.filled(page, load()) == page, "run python -m benchmarks.report"
    assert len(report.MARKED.findall(page)) == page.count("<!-- table: ") == page.count("<!-- end -->") > 0


@pytest.mark.parametrize("name", report.TABLES)
def test_lines_have_as_many_cells_as_the_head(name: str) -> None:
    lines = [line for line in report.TABLES[name](load()).splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines}) <= 1


def test_an_unknown_table_is_refused() -> None:
    with pytest.raises(ValueError, match="there is no table 'nothing'; expected one of networks"):
        report.filled("<!-- table: nothing -->\n<!-- end -->", {})


def test_numbers_as_they_are_printed() -> None:
    assert [seconds(value) for value in (0.02836, {"median": 1.234}, "")] == ["28.4 ms", "1.23 s", "-"]
    assert [times(value) for value in (1.304, 41.7, None)] == ["1.30x", "42x", "-"]
    assert between([2.0, None, 1.0]) == "1.00x to 2.00x"
    assert markdown(("", "a"), [("b", "1")]) == "| | a |\n| --- | ---: |\n| b | 1 |"


def contender(engine: str, dtype: str, median: float, beside: float | str, share: float = 0.5) -> dict[str, Any]:
    timed = {"median": median, "seconds": [median, 2 * median]} if median else ""
    ratios = {"of pydiff float32": beside, "of pydiff bfloat16": beside}
    rest = {"GFLOP/s": 10.0, "of peak": share, "largest error": 1e-3, "mean error": 1e-4, "ready after s": 3.0}
    return {"engine": engine, "type": dtype, "s": timed, **ratios, **rest, "remark": "" if median else "refused"}


def measured(ratio: float) -> dict[str, Any]:
    rows = [
        contender("pydiff, slow", "bfloat16", 2.0, ""),
        contender("pydiff, fast", "bfloat16", 1.0, "", share=0.9),
        contender("diffusers", "float32", 3.5, ratio),
        contender("OpenVINO", "bfloat16", 0, ""),
    ]
    facts = [{"what": name, "number": 1e9} for name in ("parameters", "GFLOP", "GFLOP of the text alone")]
    title = TITLES["sd15"]
    other = {TITLES["if-i-m"]: [rows[1], contender("diffusers", "float32", 9.0, 9.0)]}
    return {"networks": {title: rows, f"{title}: the call": facts, **other}}


def test_a_target_is_met_by_the_slowest_network() -> None:
    against, *_, rate = targets.TARGETS[0], targets.TARGETS[7]
    for ratio, met in ((2.9, "no"), (3.0, "yes"), (4.5, "stretch")):
        assert against.cells(measured(ratio))[1:] == (
            "3.00x", "4.50x", f"SD 1.5 {ratio:.2f}x, IF-I-M 9.00x", met
        )  # fmt: skip
    assert rate.cells(measured(3))[3:] == ("SD 1.5 0.90, IF-I-M 0.90", "yes")
    assert against.cells({})[3:] == ("-", "-")
    tasks = {"tasks": {"a process of its own": [{"what": "pydiff generate --size 64", "seconds": {"median": 1.5}}]}}
    assert targets.TARGETS[-1].cells(tasks)[3:] == ("1.50 s", "yes")


def test_who_was_refused_has_no_time() -> None:
    whole = tables.network(TITLES["sd15"])(measured(3.5)).splitlines()
    assert whole[-1] == "| OpenVINO | bfloat16 | refused | | | | | | | | |"
    assert whole[-2] == "| diffusers | float32 | 3.50 s | 7.00 s | 3.50x | 3.50x | 10 | 50% | 1e-03 | 1e-04 | 3 s |"
    line = tables.networks(measured(3.5)).splitlines()[2]
    assert line.startswith(f"| {TITLES['sd15']} | 1.00 s | 90% | 3.50x | - |")


def test_the_same_results_give_the_same_plots(tmp_path: Path) -> None:
    plots = pytest.importorskip("benchmarks.plots")
    results = load() | measured(3.5)
    assert {path.name for path in plots.write(results, tmp_path)} == set(plots.PLOTS)
    assert not list(plots.write(results, tmp_path))
