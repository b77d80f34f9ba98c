"""Train the embedded cascade from nothing: `python -m pydiff.embedded.train`.

Six phases: the text encoder learns from captions alone what stands where; the base network and the text encoder learn
pictures together; two super-resolution networks learn from crops; a copy of the base network learns to restore damaged
pictures, another one to follow instructions, from the pairs in `pairs` beside the states. Every phase
writes its state every few minutes and goes on from there when started again.
`python -m pydiff.embedded.export` then writes the weights as folders.
"""

from __future__ import annotations

import argparse
import csv
import math
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pydiff.embedded import checkpoint, data, recipe
from pydiff.embedded.instruct import Pairs, instruct_losses
from pydiff.embedded.objective import (
    VARIANCE_WEIGHT,
    cosine_alphas,
    diffusion_loss,
    draw_times,
    noise_levels,
    shifted_alphas,
)
from pydiff.embedded.optimizer import make_optimizers
from pydiff.embedded.palette import begin_from, damaged, palette_losses
from pydiff.embedded.pretrain import train_text
from pydiff.embedded.tokens import MAX_TOKENS, train_tokenizer
from pydiff.models.unet import UNet, UNetConfig
from pydiff.nn.cond import Cond

SAVE_SECONDS = 180
BASE_LEVELS, SUPER_LEVELS = shifted_alphas(recipe.BASE_SHIFT), cosine_alphas()
LOW_RES_LEVELS = 300  # noise conditioning augmentation in training: levels uniform in [0, 300) of 1000


class Run:
    """One phase: the networks that learn, their optimiser, their averaged weights and the place where they are kept."""

    def __init__(self, name: str, modules: dict[str, nn.Module], work: Path) -> None:
        self.phase, self.path, self.log = recipe.PHASES[name], work / f"{name}.safetensors", work / f"{name}.csv"
        self.model = nn.ModuleDict(modules)
        self.optimizers = make_optimizers(self.model, self.phase.learning_rate)
        self.average = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
        self.step, self.seconds = 0, 0.0
        if self.path.exists():
            self._resume()

    def _resume(self) -> None:
        tensors, facts = checkpoint.load(self.path)
        self.model.load_state_dict(checkpoint.part(tensors, "model."))
        self.average = checkpoint.part(tensors, "ema.")
        checkpoint.restore_optimizers(self.model, self.optimizers, tensors)
        self.step, self.seconds = facts["step"], facts["seconds"]
        print(f"{self.path.stem}: goes on from step {self.step}", flush=True)

    def save(self) -> None:
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        tensors |= {f"ema.{name}": value for name, value in self.average.items()}
        tensors |= checkpoint.optimizers_state(self.model, self.optimizers)
        checkpoint.save(self.path, tensors, {"step": self.step, "seconds": round(self.seconds, 1)})

    def learn(self, losses: Iterator[tuple[Tensor, Tensor]]) -> None:
        """Take steps until the phase is over; losses yields (loss, variational term) of one batch each."""
        saved, begun, shown = time.monotonic(), time.monotonic(), list[tuple[float, float]]()
        while self.step < self.phase.steps:
            loss, variational = next(losses)
            if not loss.isfinite():
                raise ArithmeticError(f"the loss is {loss.item()} at step {self.step}; go on from {self.path}")
            (loss + VARIANCE_WEIGHT * variational).backward()
            usable = nn.utils.clip_grad_norm_(self.model.parameters(), 1.0).isfinite()
            for optimizer in self.optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = self._rate() * group["share"]
                if usable:  # the variational term of a rare batch overflows
                    optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            self.step += 1
            self._average()
            shown.append((loss.item(), variational.item()))
            now = time.monotonic()
            self.seconds, begun = self.seconds + now - begun, now
            if self.step % 50 == 0:
                self._report(shown)
                shown.clear()
            if now - saved > SAVE_SECONDS or self.step == self.phase.steps:
                self.save()
                saved = now

    def _rate(self) -> float:
        warm = min(1.0, (self.step + 1) / self.phase.warmup)
        remaining = max(0.0, 1.0 - self.step / self.phase.steps)
        return self.phase.learning_rate * warm * min(1.0, max(0.02, remaining / 0.4))  # falls over the last 40 %

    @torch.no_grad()
    def _average(self) -> None:
        decay = min(self.phase.ema, (1 + self.step) / (20 + self.step))
        for name, value in self.model.state_dict().items():
            if value.is_floating_point():
                self.average[name].lerp_(value, 1.0 - decay)

    def _report(self, shown: list[tuple[float, float]]) -> None:
        loss, variational = (sum(column) / len(column) for column in zip(*shown, strict=True))
        new = not self.log.exists()
        with self.log.open("a", newline="") as file:
            writer = csv.writer(file)
            if new:
                writer.writerow(("step", "seconds", "loss", "variational"))
            writer.writerow((self.step, round(self.seconds), f"{loss:.5f}", f"{variational:.5f}"))
        rate = self.step * self.phase.batch / max(self.seconds, 1e-9)
        print(f"{self.path.stem} {self.step} loss {loss:.4f} vb {variational:.3f} {rate:.1f} images/s", flush=True)


def seeded(run: Run) -> tuple[np.random.Generator, torch.Generator]:
    """Randomness of a phase, other after every resumption, so that no picture is seen twice."""
    return np.random.default_rng([run.step, 1]), torch.Generator().manual_seed(run.step + 1)


def encoded(text: nn.Module, tokenizer: Any, captions: list[str]) -> Tensor:
    """States (B, T, D) of captions, padded as they are when pictures are made."""
    tokens = tokenizer(captions, padding="max_length", max_length=MAX_TOKENS, return_tensors="pt")
    states: Tensor = text(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask).last_hidden_state
    return states


def base_losses(run: Run, tokenizer: Any) -> Iterator[tuple[Tensor, Tensor]]:
    """Caption, picture and level in; a share of the captions is dropped for classifier-free guidance."""
    rng, generator = seeded(run)
    phase, text, unet = run.phase, run.model["text"], run.model["unet"]
    for batch in data.background(lambda: data.pictures(rng, phase.batch, recipe.STAGE_SIZES[0])):
        dropped = torch.rand(phase.batch, generator=generator) < phase.drop_text
        captions = ["" if drop else words for words, drop in zip(batch.captions, dropped.tolist(), strict=True)]
        states = encoded(text, tokenizer, captions)
        t = draw_times(phase.batch, generator, phase.fine)
        noise = torch.randn(batch.images.shape, generator=generator)
        alpha, sigma = noise_levels(t, BASE_LEVELS)
        output = unet(alpha * batch.images + sigma * noise, t, Cond(text=states))
        yield diffusion_loss(output, batch.images, noise, t, BASE_LEVELS)


def super_losses(run: Run, small: int, large: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Crops, beside them the upsampled small picture with noise of a random level, which the network is told."""
    rng, generator = seeded(run)
    phase, unet = run.phase, run.model["unet"]
    for batch in data.background(lambda: data.crops(rng, phase.batch, small, large, crop=64)):
        t = draw_times(phase.batch, generator)
        noise = torch.randn(batch.images.shape, generator=generator)
        alpha, sigma = noise_levels(t, SUPER_LEVELS)
        level = torch.randint(LOW_RES_LEVELS, (phase.batch,), generator=generator)
        low_alpha, low_sigma = noise_levels(level, SUPER_LEVELS)
        low_res = low_alpha * batch.low_res + low_sigma * torch.randn(batch.images.shape, generator=generator)
        x = torch.cat([alpha * batch.images + sigma * noise, low_res], dim=1)
        output = unet(x, t, Cond(text=None, labels=level))
        yield diffusion_loss(output, batch.images, noise, t, SUPER_LEVELS)


def in_bfloat16(network: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A network's call with matrix products in bfloat16 and weights that stay in float32; its output is float32."""

    def call(*arguments: Any) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return network(*arguments).float()

    return call


def make_unet(config: dict[str, Any]) -> UNet:
    torch.manual_seed(0)
    return UNet(UNetConfig.from_dict(config))


def make_text(vocabulary: int) -> nn.Module:
    from transformers import T5Config, T5EncoderModel

    torch.manual_seed(0)
    encoder: nn.Module = T5EncoderModel(T5Config(vocab_size=math.ceil(vocabulary / 8) * 8, **recipe.TEXT))
    return encoder


def train(work: Path, phases: list[str]) -> None:
    """Run the named phases in order, each from where its state in `work` left off."""
    work.mkdir(parents=True, exist_ok=True)
    tokenizer = train_tokenizer()
    if "text" in phases and not (work / "text.safetensors").exists():
        text = make_text(len(tokenizer))
        train_text(text, tokenizer, recipe.PHASES["text"], work / "text.safetensors")
    if "base" in phases:
        text = make_text(len(tokenizer))
        if not (work / "base.safetensors").exists():  # whose state holds the encoder too
            text.load_state_dict(checkpoint.part(_state_before(work, "text", "base"), "model."))
        run = Run("base", {"text": text, "unet": make_unet(recipe.BASE)}, work)
        run.learn(base_losses(run, tokenizer))
    small, middle, large = recipe.STAGE_SIZES
    for name, config, low, high in (
        ("super_256", recipe.SUPER_256, small, middle),
        ("super_1024", recipe.SUPER_1024, middle, large),
    ):
        if name in phases:
            run = Run(name, {"unet": make_unet(config)}, work)
            run.learn(super_losses(run, low, high))
    if "palette" in phases:
        _train_palette(work, tokenizer)
    if "instruct" in phases:
        _train_instruct(work, tokenizer)


def _train_palette(work: Path, tokenizer: Any) -> None:
    """From the base network, with its text encoder, which learns no more; and so the empty caption is encoded once."""
    text, unet = _from_base(work, "palette", recipe.PALETTE, tokenizer)
    run = Run("palette", {"unet": unet}, work)
    rng, generator = seeded(run)
    with torch.no_grad():
        states = encoded(text, tokenizer, [""])
    batches = data.background(lambda: damaged(rng, run.phase.batch, recipe.STAGE_SIZES[0]))
    run.learn(palette_losses(in_bfloat16(unet), batches, states, BASE_LEVELS, generator, run.phase.fine))


def _train_instruct(work: Path, tokenizer: Any) -> None:
    """From the base network and its text encoder, which learns what instructions say."""
    pairs = Pairs(work / "pairs")
    text, unet = _from_base(work, "instruct", recipe.INSTRUCT, tokenizer)
    run = Run("instruct", {"text": text, "unet": unet}, work)
    rng, generator = seeded(run)
    batches = data.background(lambda: pairs.lessons(rng, run.phase.batch))
    encode = in_bfloat16(partial(encoded, text, tokenizer))
    run.learn(instruct_losses(in_bfloat16(unet), batches, encode, BASE_LEVELS, generator, run.phase.fine))


def _from_base(work: Path, phase: str, config: dict[str, Any], tokenizer: Any) -> tuple[nn.Module, UNet]:
    """The base's text encoder, and its network with more input channels."""
    base = _state_before(work, "base", phase)
    text, unet = make_text(len(tokenizer)), make_unet(config)
    text.load_state_dict(checkpoint.part(base, "ema.text."))
    begin_from(unet, checkpoint.part(base, "ema.unet."))
    return text, unet


def _state_before(work: Path, phase: str, following: str) -> checkpoint.State:
    path = work / f"{phase}.safetensors"
    if not path.exists():
        raise ValueError(f"{path} does not exist; run the phase {phase!r} before the phase {following!r}")
    return checkpoint.load(path)[0]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m pydiff.embedded.train", description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("out/training"), help="where states and logs are kept")
    parser.add_argument("--phases", nargs="+", choices=list(recipe.PHASES), default=list(recipe.PHASES))
    arguments = parser.parse_args()
    train(arguments.work, arguments.phases)


if __name__ == "__main__":
    main()
