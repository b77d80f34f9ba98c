"""Networks as plans on the CPU: every step recorded once for fixed sizes, over weights packed once and memory planned
once, and run by the native core."""

from pydiff.runtime.planned.autoencoder import PlannedAutoencoder
from pydiff.runtime.planned.network import PlannedUNet, planned, planned_codec, why_not

__all__ = ["PlannedAutoencoder", "PlannedUNet", "planned", "planned_codec", "why_not"]
