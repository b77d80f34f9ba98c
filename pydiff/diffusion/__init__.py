"""The mathematics of sampling: levels, step tables, guidance rows, thresholding, noise and the one loop."""

from pydiff.diffusion.config import SamplerConfig, sampler_from_scheduler_config
from pydiff.diffusion.guidance import Guidance, classifier_free, instruct, limited, make_guidance, oscillating, unguided
from pydiff.diffusion.levels import EDMSchedule, Level, LogSNRSchedule, NoiseSchedule
from pydiff.diffusion.loop import State, sample
from pydiff.diffusion.noise import Noise
from pydiff.diffusion.partial import begin_below, begin_of_strength, rows_above, timestep_cutoff
from pydiff.diffusion.preconditioning import edm_denoiser
from pydiff.diffusion.repaint import resampled, zigzag
from pydiff.diffusion.rows import Earlier, Row, StepTable, make_table, rising_row
from pydiff.diffusion.samplers import SAMPLERS, step_table
from pydiff.diffusion.thresholding import make_threshold

__all__ = [
    "SAMPLERS",
    "EDMSchedule",
    "Earlier",
    "Guidance",
    "Level",
    "LogSNRSchedule",
    "Noise",
    "NoiseSchedule",
    "Row",
    "SamplerConfig",
    "State",
    "StepTable",
    "begin_below",
    "begin_of_strength",
    "classifier_free",
    "edm_denoiser",
    "instruct",
    "limited",
    "make_guidance",
    "make_table",
    "make_threshold",
    "oscillating",
    "resampled",
    "rising_row",
    "rows_above",
    "sample",
    "sampler_from_scheduler_config",
    "step_table",
    "timestep_cutoff",
    "unguided",
    "zigzag",
]
