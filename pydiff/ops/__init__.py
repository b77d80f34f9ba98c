"""Operators: each has one plain torch reference, and a native kernel for the devices that have one."""

from pydiff.ops.group_norm_silu import group_norm_silu, group_norm_silu_reference
from pydiff.ops.guided_step import Step, Threshold, guided_step, guided_step_reference

__all__ = [
    "Step",
    "Threshold",
    "group_norm_silu",
    "group_norm_silu_reference",
    "guided_step",
    "guided_step_reference",
]
