"""Operators: each has one plain torch reference, and a native kernel for the devices that have one."""

from pydiff.ops.attention import (
    attention,
    attention_reference,
    edited_attention,
    edited_attention_reference,
)
from pydiff.ops.group_norm_silu import group_norm_silu, group_norm_silu_reference
from pydiff.ops.guided_step import Paste, Step, Threshold, guided_step, guided_step_reference

__all__ = [
    "Paste",
    "Step",
    "Threshold",
    "attention",
    "attention_reference",
    "edited_attention",
    "edited_attention_reference",
    "group_norm_silu",
    "group_norm_silu_reference",
    "guided_step",
    "guided_step_reference",
]
