"""The user's choice of thresholding, checked."""

from __future__ import annotations

import math

from pydiff.diffusion.checks import real
from pydiff.ops.guided_step import THRESHOLDS, Threshold


def make_threshold(
    thresholding: str = "none", *, percentile: float | None = None, max_value: float | None = None
) -> Threshold:
    """How the estimate of x0 is kept in range (Saharia et al. 2022, Imagen, section 2.3).

    "none"; "static": clip to [-max_value, max_value], 1 by default; "dynamic": s = the percentile-quantile of each
    picture (a share, 0.995 by default), at least 1 and at most max_value (no limit by default, as in Imagen), then
    clip to [-s, s] and divide by s. Raises ValueError for options that are unknown, out of range or unused.
    """
    if thresholding not in THRESHOLDS:
        raise ValueError(f"thresholding is {thresholding!r}; expected one of {', '.join(THRESHOLDS)}")
    if percentile is not None and thresholding != "dynamic":
        raise ValueError(f"percentile is for dynamic thresholding, but thresholding is {thresholding!r}")
    if max_value is not None and thresholding == "none":
        raise ValueError("max_value is for static or dynamic thresholding, but thresholding is 'none'")
    share = 0.995 if percentile is None else real("percentile", percentile)
    if not 0 <= share <= 1:
        raise ValueError(f"percentile is {share}; expected a share in [0, 1], such as 0.995")
    if thresholding == "none":
        return Threshold()
    if thresholding == "static":
        limit = 1.0 if max_value is None else real("max_value", max_value)
        if not 0 < limit < math.inf:
            raise ValueError(f"max_value is {limit}; expected a positive number")
        return Threshold("static", max_value=limit)
    limit = math.inf if max_value is None else real("max_value", max_value)
    if not limit >= 1:
        raise ValueError(f"max_value is {limit}; expected at least 1: dynamic thresholding never shrinks below [-1, 1]")
    return Threshold("dynamic", share, limit)
