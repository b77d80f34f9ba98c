"""The card of the shipped weights says what was measured of them."""

from __future__ import annotations

from pathlib import Path

from benchmarks.results_of import HOME as RESULTS
from pydiff.embedded.card import HOME, card
from pydiff.weights import read_json


def test_the_card_is_made_of_the_results() -> None:
    measured = (read_json(Path(RESULTS) / f"cpu-{name}.json") for name in ("scenes", "restore", "instructions"))
    assert card(HOME, *measured) == (HOME / "CARD.md").read_text(encoding="utf-8")
