"""Configurations, which are read without torch, know exactly the activations that networks have."""

from __future__ import annotations

from pydiff.models import t5, t5_config
from pydiff.nn.activations import ACTIVATIONS
from pydiff.nn.names import ACTIVATION_NAMES


def test_names_are_those_of_functions() -> None:
    assert tuple(ACTIVATIONS) == ACTIVATION_NAMES
    assert tuple(t5.ACTIVATIONS) == t5_config.ACTIVATION_NAMES
