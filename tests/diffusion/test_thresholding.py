"""The user's choice of thresholding."""

from __future__ import annotations

import math

import pytest

from pydiff.diffusion import make_threshold
from pydiff.ops import Threshold


def test_defaults():
    assert make_threshold() == Threshold("none")
    assert make_threshold("static") == Threshold("static", max_value=1.0)
    assert make_threshold("dynamic") == Threshold("dynamic", 0.995, math.inf)
    assert make_threshold("dynamic", percentile=0.95, max_value=1.5) == Threshold("dynamic", 0.95, 1.5)


@pytest.mark.parametrize(
    ("match", "kind", "options"),
    [
        ("'soft'; expected one of none, static, dynamic", "soft", {}),
        ("expected a share in", "dynamic", {"percentile": 99.5}),
        ("expected a share in", "dynamic", {"percentile": math.nan}),
        ("at least 1", "dynamic", {"max_value": 0.5}),
        ("at least 1", "dynamic", {"max_value": math.nan}),
        ("percentile is 'most'; expected a number", "dynamic", {"percentile": "most"}),
        ("percentile is True; expected a number", "dynamic", {"percentile": True}),
        (r"max_value is \[1\]; expected a number", "static", {"max_value": [1]}),
        (r"\['static'\]; expected one of none, static, dynamic", ["static"], {}),
        ("positive", "static", {"max_value": 0.0}),
        ("positive", "static", {"max_value": math.inf}),
        ("dynamic thresholding, but", "static", {"percentile": 0.9}),
        ("but thresholding is 'none'", "none", {"max_value": 1.0}),
    ],
)
def test_bad_input_is_refused(match, kind, options):
    with pytest.raises(ValueError, match=match):
        make_threshold(kind, **options)
