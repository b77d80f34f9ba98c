"""Tables of README.md and docs/performance.md, and plots, from benchmarks/results: `python -m benchmarks.report`.

A table stands between `<!-- table: NAME -->` and `<!-- end -->`. The same results make the same files.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks import operator_tables, tables, targets
from benchmarks.results_of import Results, load
from benchmarks.workloads import TITLES

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "docs/performance.md")
MARKED = re.compile(r"<!-- table: ([\w-]+) -->\n(.*?)<!-- end -->", re.DOTALL)
TABLES: Mapping[str, Callable[[Results], str]] = {
    "networks": tables.networks,
    **{f"network-{name}": tables.network(title) for name, title in TITLES.items()},
    "targets": targets.table,
    "tasks": tables.tasks,
    "commands": tables.commands,
    "edit": tables.edit,
    "inpaint": tables.inpaint,
    "runtimes": tables.runtimes,
    "scenes": tables.scenes,
    "approximations": tables.approximations,
    "edits": tables.edits,
    "instructions": tables.instructions,
    "attention-ranges": operator_tables.attention_ranges,
    "attention": operator_tables.attention,
    "steps": operator_tables.steps,
    "norms": operator_tables.norms,
    "measured-on": tables.measured_on,
}


def filled(page: str, results: Results) -> str:
    """The page with every marked table made anew. Raises ValueError for a name that no table has."""

    def table(found: re.Match[str]) -> str:
        name = found[1]
        if name not in TABLES:
            raise ValueError(f"there is no table {name!r}; expected one of {', '.join(TABLES)}")
        return f"<!-- table: {name} -->\n{TABLES[name](results)}\n<!-- end -->"

    return MARKED.sub(table, page)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=(__doc__ or "").splitlines()[0])
    parser.parse_args()
    results = load()
    for name in PAGES:
        path = ROOT / name
        page = path.read_text(encoding="utf-8")
        made = filled(page, results)
        if made != page:
            path.write_text(made, encoding="utf-8")
            print(name)
    try:
        from benchmarks import plots
    except ImportError as error:
        print(f"no plots: {error}; pip install matplotlib", file=sys.stderr)
        return
    for path in plots.write(results, ROOT / "docs"):
        print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
