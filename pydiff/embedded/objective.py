"""What the networks are trained for: v-prediction over cosine levels, and the variance of the reverse step."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pydiff.embedded.recipe import TRAIN_TIMESTEPS

VARIANCE_WEIGHT = 1e-3  # Improved DDPM (Nichol and Dhariwal 2021), lambda of L_hybrid


def cosine_alphas(timesteps: int = TRAIN_TIMESTEPS) -> Tensor:
    """Cumulative products of alpha, (timesteps,) float64 (squared cosine, betas capped at 0.999)."""
    times = torch.arange(timesteps + 1, dtype=torch.float64) / timesteps
    bar = torch.cos((times + 0.008) / 1.008 * math.pi / 2) ** 2
    return torch.cumprod(1.0 - (1.0 - bar[1:] / bar[:-1]).clamp(max=0.999), 0)


def shifted_alphas(shift: float, timesteps: int = TRAIN_TIMESTEPS) -> Tensor:
    """The cosine schedule with its log-SNR moved by `shift` (Hoogeboom et al. 2023, simple diffusion, section 3.1).

    A plain surface shows through noise that hides every detail: the larger the surfaces, the more noise it takes until
    only the words can tell what stands where. float64 (timesteps,).
    """
    times = torch.arange(1, timesteps + 1, dtype=torch.float64) / (timesteps + 1)
    return torch.sigmoid(shift - 2 * torch.log(torch.tan(math.pi / 2 * times)))


def betas_of(alphas_cumprod: Tensor) -> list[float]:
    """What a scheduler's trained_betas says of these levels."""
    before = torch.cat([torch.ones(1, dtype=torch.float64), alphas_cumprod[:-1]])
    return [float(beta) for beta in 1 - alphas_cumprod / before]


def noise_levels(t: Tensor, alphas_cumprod: Tensor) -> tuple[Tensor, Tensor]:
    """alpha and sigma of integer times t (B,), each (B, 1, 1, 1)."""
    bar = alphas_cumprod[t].view(-1, 1, 1, 1)
    return bar.sqrt().float(), (1.0 - bar).sqrt().float()


def draw_times(batch: int, generator: torch.Generator, fine: float = 0.0) -> Tensor:
    """Integer times (B,): uniform, but a share `fine` from the lowest quarter, where edges and surfaces are made."""
    times = torch.randint(TRAIN_TIMESTEPS, (batch,), generator=generator)
    return torch.where(torch.rand(batch, generator=generator) < fine, times // 4, times)


def diffusion_loss(
    output: Tensor, x0: Tensor, noise: Tensor, t: Tensor, alphas_cumprod: Tensor, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Squared error of v, and the variational term that trains only the variance (Improved DDPM, eq. 15-16).

    output (B, 2C, H, W): v and the share of the log-variance between its posterior and its prior value, in [-1, 1].
    mask (B, 1, H, W): weights of the pixels that both are means over, such as 1 and 0; None is all of them alike.
    """
    alpha, sigma = noise_levels(t, alphas_cumprod)
    v, share = output.chunk(2, dim=1)
    loss = _mean((v - (alpha * noise - sigma * x0)).square(), mask)
    x = alpha * x0 + sigma * noise
    denoised = (alpha * x - sigma * v).detach().clamp(-1, 1)
    bar = alphas_cumprod[t]
    previous = torch.where(t > 0, alphas_cumprod[(t - 1).clamp(min=0)], torch.ones((), dtype=torch.float64))
    beta = 1.0 - bar / previous
    posterior = (beta * (1.0 - previous) / (1.0 - bar)).clamp(min=1e-20)
    low, high = (value.log().float().view(-1, 1, 1, 1) for value in (posterior, beta))
    log_variance = low + (share + 1.0) / 2.0 * (high - low)
    c_denoised = (previous.sqrt() * beta / (1.0 - bar)).float().view(-1, 1, 1, 1)
    error = (c_denoised * (x0 - denoised)).square()
    divergence = 0.5 * (log_variance - low - 1.0 + (low - log_variance).exp() + error * (-log_variance).exp())
    usable = (t > 0).float().view(-1, 1, 1, 1)
    return loss, _mean(usable * divergence, mask)


def _mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """Of (B, C, H, W) values over the pixels of the mask."""
    if mask is None:
        return values.mean()
    return (values * mask).sum() / (mask.sum() * values.shape[1])
