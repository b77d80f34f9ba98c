"""The mathematics of sampling: levels, step tables, guidance rows, thresholding, noise and the one loop."""

from pydiff.diffusion.config import SamplerConfig, sampler_from_scheduler_config
from pydiff.diffusion.guidance import Guidance, classifier_free, instruct, limited, make_guidance, oscillating, unguided
from pydiff.diffusion.levels import EDMSchedule, Level, LogSNRSchedule, NoiseSchedule
from pydiff.diffusion.loop import State, sample
from pydiff.diffusion.noise import Noise
from pydiff.diffusion.preconditioning import edm_denoiser
from pydiff.diffusion.repaint import resampled, zigzag
from pydiff.diffusion.rows import Row, StepTable, from_strength, make_table, rising_row
from pydiff.diffusion.samplers import SAMPLERS, step_table
from pydiff.diffusion.thresholding import make_threshold

__all__ = [
    "SAMPLERS",
    "EDMSchedule",
    "Guidance",
    "Level",
    "LogSNRSchedule",
    "Noise",
    "NoiseSchedule",
    "Row",
    "SamplerConfig",
    "State",
    "StepTable",
    "classifier_free",
    "edm_denoiser",
    "from_strength",
    "instruct",
    "limited",
    "make_guidance",
    "make_table",
    "make_threshold",
    "oscillating",
    "resampled",
    "rising_row",
    "sample",
    "sampler_from_scheduler_config",
    "step_table",
    "unguided",
    "zigzag",
]
