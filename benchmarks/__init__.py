"""Measurements of what pydiff makes and how fast; run one with `python -m benchmarks.NAME`."""
