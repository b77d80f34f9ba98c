"""Noise levels: how much signal and how much noise a state holds, and what the network is told about it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from pydiff.diffusion.checks import real
from pydiff.diffusion.spacing import karras
from pydiff.ops.guided_step import PREDICTION_TYPES

BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid")
LOG_SNRS = ("cosine", "linear")
SCHEDULE_FIELDS = (
    *("beta_schedule", "num_train_timesteps", "beta_start", "beta_end", "trained_betas", "rescale_betas_zero_snr"),
    "prediction_type",
)
# Where a scheduler class of diffusers has other defaults than the rest.
CLASS_DEFAULTS: dict[str, dict[str, Any]] = {
    "HeunDiscreteScheduler": {"beta_start": 0.00085, "beta_end": 0.012},
    "UnCLIPScheduler": {"beta_schedule": "squaredcos_cap_v2"},
}
MOST_TIMESTEPS = 1 << 20
SMALLEST_ALPHAS_CUMPROD = 2.0**-24  # stands for 0 where a level is named by sigma / alpha, which must be finite


class Level(NamedTuple):
    """x = alpha x0 + sigma noise; t is what the network is told, and its input is input_scale x."""

    alpha: float
    sigma: float
    t: float
    input_scale: float = 1.0

    @property
    def ratio(self) -> float:
        """sigma / alpha, the noise level of Karras et al. 2022."""
        return self.sigma / self.alpha


CLEAN = Level(1.0, 0.0, 0.0)


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """The levels of a network trained on a discrete diffusion: alphas_cumprod (T,), decreasing, in [0, 1].

    Variance preserving (Ho et al. 2020): alpha_t = sqrt(alphas_cumprod[t]), sigma_t = sqrt(1 - alphas_cumprod[t]).
    betas (T,), where known: what alphas_cumprod was multiplied from, before its rounding. Raises ValueError when the
    array is not such a sequence or prediction_type is unknown.
    """

    alphas_cumprod: np.ndarray
    prediction_type: str = "epsilon"
    betas: np.ndarray | None = None

    def __post_init__(self) -> None:
        check_prediction_type(self.prediction_type)
        values = np.array(self.alphas_cumprod, dtype=np.float64)
        if values.ndim != 1 or values.size == 0:
            raise ValueError(f"alphas_cumprod has shape {values.shape}; expected one number per training timestep")
        if not (np.isfinite(values).all() and values[0] < 1 and values[-1] >= 0 and (np.diff(values) <= 0).all()):
            raise ValueError("alphas_cumprod must be finite, below 1, not negative and never rise with t")
        if not (values[:-1] > 0).all():
            raise ValueError("alphas_cumprod must be above 0 but for its last value; check the betas")
        values.flags.writeable = False
        object.__setattr__(self, "alphas_cumprod", values)

    @classmethod
    def make(
        cls,
        beta_schedule: str = "linear",
        *,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        trained_betas: Sequence[float] | None = None,
        rescale_betas_zero_snr: bool = False,
        prediction_type: str = "epsilon",
    ) -> NoiseSchedule:
        """The schedule of these betas: linear (Ho et al. 2020), scaled_linear (Rombach et al. 2022), sigmoid or
        squaredcos_cap_v2 (Nichol and Dhariwal 2021, equation 17); trained_betas, when given, are used instead.

        Values are rounded to float32 where a network's training code held them in float32, so that a run agrees with
        diffusers; all that is computed from them is in float64.
        """
        if trained_betas is None:
            start, end = _share("beta_start", beta_start), _share("beta_end", beta_end)
            betas = _betas(beta_schedule, num_train_timesteps, start, end)
        else:
            betas = _given_betas(trained_betas)
        if betas.ndim != 1 or betas.size == 0 or not ((betas > 0) & (betas <= 1)).all():
            raise ValueError("betas must be a list of numbers in (0, 1]; check beta_start, beta_end or trained_betas")
        if rescale_betas_zero_snr:
            betas = _zero_terminal_snr(betas)
        return cls(_cumulative(betas), prediction_type, betas)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> NoiseSchedule:
        """The schedule that a diffusers scheduler_config.json describes; absent fields have diffusers' defaults."""
        kind = "sample" if config.get("predict_epsilon") is False else "epsilon"
        given = {"prediction_type": kind, **CLASS_DEFAULTS.get(str(config.get("_class_name")), {}), **config}
        return cls.make(**{name: given[name] for name in SCHEDULE_FIELDS if given.get(name) is not None})

    @property
    def num_train_timesteps(self) -> int:
        return len(self.alphas_cumprod)

    @property
    def sigmas(self) -> np.ndarray:
        """sigma / alpha of every t (T,), never falling; finite at zero signal too."""
        values = self.alphas_cumprod
        if values[-1] == 0:
            values = np.maximum(values, SMALLEST_ALPHAS_CUMPROD)
        sigmas: np.ndarray = np.sqrt((1 - values) / values)
        return sigmas

    def level(self, t: int) -> Level:
        """The level of training timestep t, an int in [0, T): also what noise conditioning augmentation adds."""
        if isinstance(t, bool) or int(t) != t or not 0 <= t < self.num_train_timesteps:
            raise ValueError(f"timestep {t!r} is not an integer in [0, {self.num_train_timesteps})")
        value = float(self.alphas_cumprod[int(t)])
        return Level(math.sqrt(value), math.sqrt(1 - value), float(t))

    def level_at(self, ratio: float, t: float | None = None) -> Level:
        """The level whose sigma / alpha is `ratio`; t is interpolated in log sigma unless given."""
        t = self.timestep_at(ratio) if t is None else t
        alpha = 1 / math.sqrt(1 + ratio * ratio)
        return Level(alpha, ratio * alpha, t)

    def timestep_at(self, ratio: float) -> float:
        """The (fractional) t in [0, T - 1] whose sigma / alpha is `ratio`, interpolated in log sigma."""
        logs = np.log(self.sigmas.astype(np.float32))  # float32, since diffusers cuts t to whole numbers after this
        return float(np.interp(math.log(max(ratio, 1e-10)), logs, np.arange(self.num_train_timesteps)))


@dataclass(frozen=True)
class LogSNRSchedule:
    """Imagen's continuous levels: the network is told log(alpha^2 / sigma^2) (Saharia et al. 2022; Kingma et al. 2021).

    kind: "cosine" or "linear". Time runs from 1 (noise) to 0 (picture).
    """

    kind: str = "cosine"
    prediction_type: str = "epsilon"

    def __post_init__(self) -> None:
        check_prediction_type(self.prediction_type)
        if self.kind not in LOG_SNRS:
            raise ValueError(f"log-SNR schedule {self.kind!r} is unknown; expected one of {', '.join(LOG_SNRS)}")

    def log_snr(self, time: float) -> float:
        if self.kind == "linear":
            return -math.log(math.expm1(1e-4 + 10 * time * time))
        cosine = max(math.cos((time + 0.008) / 1.008 * math.pi / 2), 4.371139e-8)  # float32's cos(pi / 2)
        return -math.log(max(cosine**-2 - 1, 1e-5))

    def level(self, time: float) -> Level:
        if not 0 <= time <= 1:
            raise ValueError(f"time {time!r} is not in [0, 1]")
        log_snr = self.log_snr(time)
        return Level(math.sqrt(1 / (1 + math.exp(-log_snr))), math.sqrt(1 / (1 + math.exp(log_snr))), log_snr)

    def levels(self, num_inference_steps: int) -> list[Level]:
        """num_inference_steps + 1 levels, evenly spaced in time, the last at time 0."""
        return [self.level(float(time)) for time in np.linspace(1, 0, num_inference_steps + 1)]


@dataclass(frozen=True)
class EDMSchedule:
    """Variance exploding levels of a network with EDM's preconditioning (Karras et al. 2022, table 1).

    x = x0 + sigma noise; the network sees x / sqrt(sigma^2 + sigma_data^2) and is told ln(sigma) / 4.
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0
    sigma_data: float = 0.5
    prediction_type: str = "sample"

    def __post_init__(self) -> None:
        check_prediction_type(self.prediction_type)
        if not (0 < self.sigma_min < self.sigma_max < math.inf and self.rho > 0 and self.sigma_data > 0):
            raise ValueError(f"{self} is no schedule; expected 0 < sigma_min < sigma_max, rho > 0 and sigma_data > 0")

    def level(self, sigma: float) -> Level:
        scale = 1 / math.hypot(sigma, self.sigma_data)
        return Level(1.0, sigma, math.log(sigma) / 4 if sigma > 0 else 0.0, scale)

    def levels(self, num_inference_steps: int) -> list[Level]:
        """num_inference_steps + 1 levels with Karras spacing, the last being 0."""
        sigmas = karras(self.sigma_min, self.sigma_max, num_inference_steps, self.rho)
        return [self.level(float(sigma)) for sigma in sigmas] + [self.level(0.0)]


Schedule = NoiseSchedule | LogSNRSchedule | EDMSchedule


def check_prediction_type(prediction_type: str) -> None:
    if prediction_type not in PREDICTION_TYPES:
        known = ", ".join(PREDICTION_TYPES)
        raise ValueError(f"prediction_type is {prediction_type!r}; expected one of {known}")


def _share(name: str, value: Any) -> float:
    share = real(name, value)
    if not 0 <= share <= 1:
        raise ValueError(f"{name} is {value!r}; expected a number from 0 to 1")
    return share


def _given_betas(betas: Sequence[float]) -> np.ndarray:
    try:
        with np.errstate(over="ignore"):  # what overflows is refused as no beta
            return np.asarray(betas, dtype=np.float32)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"trained_betas is {betas!r}; expected a list of numbers in (0, 1]") from error


def _betas(name: str, count: int, start: float, end: float) -> np.ndarray:
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= MOST_TIMESTEPS:
        raise ValueError(f"num_train_timesteps is {count!r}; expected a positive integer of at most {MOST_TIMESTEPS}")
    betas: np.ndarray
    if name == "linear":
        betas = _linspace(start, end, count)
    elif name == "scaled_linear":
        betas = np.square(_linspace(start**0.5, end**0.5, count))
    elif name == "sigmoid":
        rate = (1 / (1 + np.exp(-_linspace(-6, 6, count).astype(np.float64)))).astype(np.float32)
        betas = np.float32(start) + np.float32(end - start) * rate
    elif name == "squaredcos_cap_v2":
        alpha_bar = np.cos((np.linspace(0, 1, count + 1) + 0.008) / 1.008 * math.pi / 2) ** 2
        betas = np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], 0.999).astype(np.float32)
    else:
        raise ValueError(f"beta_schedule {name!r} is unknown; expected one of {', '.join(BETA_SCHEDULES)}")
    return betas


def _linspace(start: float, end: float, count: int) -> np.ndarray:
    """float32 numbers as torch.linspace has them: a float32 stride, counted from the nearer end."""
    first, last = float(np.float32(start)), float(np.float32(end))
    stride = float((np.float32(end) - np.float32(start)) / np.float32(max(count - 1, 1)))
    k = np.arange(count)
    return np.where(k < max(count // 2, 1), first + stride * k, last - stride * (count - 1 - k)).astype(np.float32)


def _cumulative(betas: np.ndarray) -> np.ndarray:
    return np.cumprod((np.float32(1) - betas).astype(np.float64)).astype(np.float32)


def _zero_terminal_snr(betas: np.ndarray) -> np.ndarray:
    """Shift and scale sqrt(alphas_cumprod) so that it ends at 0 (Lin et al. 2023, algorithm 1); all in float32."""
    root = np.sqrt(_cumulative(betas))
    bar = ((root - root[-1]) * (root[0] / (root[0] - root[-1]))) ** 2
    return 1 - np.concatenate([bar[:1], bar[1:] / bar[:-1]])
