"""What is aimed for, and what was measured of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from benchmarks.results_of import NONE, Results, markdown, middle, of, ours, starting
from benchmarks.workloads import TITLES

BIG = {"SD 1.5": TITLES["sd15"], "IF-I-M": TITLES["if-i-m"]}
SMALL = {"embedded": TITLES["embedded"], "SD-like": TITLES["sd-toy"], "IF-like": TITLES["if-toy"]}
DIFFUSERS, LAST = "diffusers", "diffusers, channels_last"
COMPILED = "diffusers, torch.compile, frozen, channels_last"
Measured = Mapping[str, float | None]
F32, BF16 = "float32", "bfloat16"


class Target(NamedTuple):
    """goal and stretch: of a ratio at least, of seconds and shares of overhead at most."""

    measure: str
    goal: float
    stretch: float
    measured: Callable[[Results], Measured]
    form: str = "{:.2f}x"
    least: bool = True

    def met(self, values: Measured) -> str:
        """By the worst of what was measured."""
        known = [value for value in values.values() if value is not None]
        if not known or len(known) < len(values):
            return NONE
        worst = min(known) if self.least else max(known)
        reached = (self.stretch, self.goal) if self.least else (-self.stretch, -self.goal)
        value = worst if self.least else -worst
        return "stretch" if value >= reached[0] else "yes" if value >= reached[1] else "no"

    def cells(self, results: Results) -> tuple[str, ...]:
        values = self.measured(results)
        print_as, known = self.form.format, {name: value for name, value in values.items() if value is not None}
        shown = ", ".join(f"{name} {print_as(value)}".strip() for name, value in known.items())
        return self.measure, print_as(self.goal), print_as(self.stretch), shown or NONE, self.met(values)


def against(peer: str, peer_type: str, own: str, networks: Mapping[str, str]) -> Callable[[Results], Measured]:
    """A peer's time beside pydiff's of a type, of one bout."""

    def measured(results: Results) -> Measured:
        made = results.get("networks", {})
        rows = {name: of(made.get(title, ()), engine=peer, type=peer_type) for name, title in networks.items()}
        return {name: middle(row.get(f"of pydiff {own}")) for name, row in rows.items()}

    return measured


def peak(results: Results) -> Measured:
    made = results.get("networks", {})
    return {name: middle(ours(made.get(title, ()), BF16).get("of peak")) for name, title in BIG.items()}


def cell(file: str, table: str, column: str, **wanted: Any) -> Callable[[Results], Measured]:
    def measured(results: Results) -> Measured:
        return {"": middle(of(starting(results.get(file, {}), table), **wanted).get(column))}

    return measured


CALL = "a U-Net call in bfloat16, SD 1.5 at 256x256 and IF-I-M, against"
CASCADE = "embedded cascade, one picture"
OUTSIDE = "outside of the network's calls"
TARGETS: Sequence[Target] = (
    Target(f"{CALL} diffusers, float32", 3, 4.5, against(DIFFUSERS, F32, BF16, BIG)),
    Target(f"{CALL} diffusers, bfloat16, channels_last", 1.5, 2, against(LAST, BF16, BF16, BIG)),
    Target(f"{CALL} torch.compile, bfloat16, frozen", 1.1, 1.3, against(COMPILED, BF16, BF16, BIG)),
    Target("the same on small networks", 1.5, 2.5, against(COMPILED, BF16, BF16, SMALL)),
    Target(f"{CALL} ONNX Runtime, float32", 2.5, 3.5, against("ONNX Runtime", F32, BF16, BIG)),
    Target("that in float32 against ONNX Runtime, float32", 1.15, 1.6, against("ONNX Runtime", F32, F32, BIG)),
    Target(f"{CALL} OpenVINO, bfloat16", 1.05, 1.3, against("OpenVINO", BF16, BF16, BIG)),
    Target("its FLOP rate over the fastest product's or convolution's, bfloat16", 0.85, 0.95, peak, "{:.2f}"),
    Target("the embedded cascade to 256x256 against diffusers, the same pictures", 4, 6,
           cell("tasks", CASCADE, "ratio", size=256)),
    Target("outside of the networks' calls, of a run to 256x256 in float32", 0.03, 0.01,
           cell("tasks", OUTSIDE, "share of the run", size=256, type=F32), "{:.1%}", False),
    Target("`pydiff generate` from typed to a 64x64 file, warm disk", 2.0, 1.0,
           cell("tasks", "a process of its own", "seconds", what="pydiff generate --size 64"), "{:.2f} s", False),
)  # fmt: skip


def table(results: Results) -> str:
    columns = ("measure", "target", "stretch", "measured", "met")
    return markdown(columns, (target.cells(results) for target in TARGETS))
