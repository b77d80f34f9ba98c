"""What a run raises where the fixture `idle` forbids it."""

from __future__ import annotations


class WorkBeganError(AssertionError):
    """No ValueError, and no assertion of pydiff's own."""
