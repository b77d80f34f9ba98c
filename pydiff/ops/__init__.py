"""Operators: each has one plain reference, and a native kernel for the devices that have one.

Those of networks, `pydiff.ops.attention` and `pydiff.ops.group_norm_silu`, compute with torch's tensors; those of host
code, here, with NumPy's arrays too, and without torch.
"""

from pydiff.ops.guided_step import Paste, Step, Threshold, guided_step, guided_step_reference

__all__ = ["Paste", "Step", "Threshold", "guided_step", "guided_step_reference"]
