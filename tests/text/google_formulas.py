"""Prompt-to-Prompt as google/prompt-to-prompt publishes it, on materialised maps: the oracle of the edit tables.

Typed from the formulas; tokens come as lists of pieces, so that nothing of pydiff's own reading is used.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from pydiff.text.tokens import PromptTokenizer

LENGTH = 77


def pieces(tokenizer: PromptTokenizer, prompt: str) -> list[str]:
    """The prompt's tokens as texts, without frame."""
    encoding = tokenizer.tokenizer.encode(prompt, add_special_tokens=False)
    return [tokenizer.tokenizer.decode([number]).replace("</w>", "").strip("#") for number in encoding.ids]


def word_indices(tokenizer: PromptTokenizer, prompt: str, word: str | int) -> np.ndarray:
    split = prompt.split(" ")
    places = [word] if isinstance(word, int) else [place for place in range(len(split)) if split[place] == word]
    if not places:
        return np.array([], dtype=int)
    found, length, place = [], 0, 0
    for index, piece in enumerate(pieces(tokenizer, prompt)):
        length += len(piece)
        if place in places:
            found.append(index + 1)
        if length >= len(split[place]):
            length, place = 0, place + 1
    return np.array(found, dtype=int)


def replacement(tokenizer: PromptTokenizer, source: str, target: str) -> Tensor:
    """mapper (77, 77)."""
    pairs = list(zip(source.split(" "), target.split(" "), strict=True))
    changed = [place for place, (one, other) in enumerate(pairs) if one != other]
    sides = [[word_indices(tokenizer, prompt, place) for place in changed] for prompt in (source, target)]
    mapper = np.zeros((LENGTH, LENGTH))
    i = j = done = 0
    while i < LENGTH and j < LENGTH:
        if done == len(changed):
            mapper[j, j] = 1
            i, j = i + 1, j + 1
        elif sides[0][done][0] == i:
            rows, columns = sides[0][done], sides[1][done]
            if len(rows) == len(columns):
                mapper[rows, columns] = 1
            else:
                mapper[np.ix_(rows, columns)] = 1 / len(columns)
            i, j, done = i + len(rows), j + len(columns), done + 1
        else:
            mapper[i, j] = 1
            i, j = i + 1, j + 1
    return torch.from_numpy(mapper)


def refinement(tokenizer: PromptTokenizer, source: str, target: str) -> tuple[Tensor, Tensor]:
    """mapper (77,) and alphas (77,)."""
    x, y = (tokenizer.tokenizer.encode(prompt).ids for prompt in (source, target))
    score = np.zeros((len(x) + 1, len(y) + 1), dtype=int)
    trace = np.zeros_like(score)  # 1 left, 2 up, 3 diagonal
    trace[0, 1:], trace[1:, 0] = 1, 2
    for i in range(1, len(x) + 1):
        for j in range(1, len(y) + 1):
            ways = [score[i, j - 1], score[i - 1, j], score[i - 1, j - 1] + (1 if x[i - 1] == y[j - 1] else -1)]
            score[i, j] = max(ways)
            trace[i, j] = 1 + ways.index(max(ways))
    i, j, found = len(x), len(y), []
    while i or j:
        way = trace[i, j]
        i, j = i - (way != 1), j - (way != 2)
        if way != 2:
            found.insert(0, i if way == 3 else -1)
    mapper = torch.tensor(found + list(range(len(y), LENGTH)))
    return mapper, (mapper != -1).double()


def schedule(tokenizer: PromptTokenizer, targets: list[str], steps: int, share: Any) -> Tensor:
    """cross_replace_alpha (steps + 1, targets, 1, 1, 77)."""
    alpha = torch.zeros(steps + 1, len(targets), LENGTH, dtype=torch.float64)
    said = dict(share) if isinstance(share, dict) else {"default_": share}
    said.setdefault("default_", (0.0, 1.0))
    for word in sorted(said, key=lambda word: word != "default_"):
        low, high = said[word] if isinstance(said[word], tuple) else (0, said[word])
        for row, target in enumerate(targets):
            where = np.arange(LENGTH) if word == "default_" else word_indices(tokenizer, target, word)
            alpha[:, row, where] = 0
            alpha[int(low * (steps + 1)) : int(high * (steps + 1)), row, where] = 1
    return alpha[:, :, None, None]


def equalizer(tokenizer: PromptTokenizer, targets: list[str], weights: dict[str, Any]) -> Tensor:
    """(targets, 77); a list is a sweep over the targets."""
    rows = torch.ones(len(targets), LENGTH, dtype=torch.float64)
    for word, value in weights.items():
        for row, target in enumerate(targets):
            each = value[row] if isinstance(value, list) else value
            rows[row, word_indices(tokenizer, target, word)] = each
    return rows


class Controller:
    """Edits maps (B, heads, N, 77) of [source, *targets] at a step. kind: replace, refine, or identity where words are
    re-weighted alone."""

    def __init__(
        self,
        tokenizer: PromptTokenizer,
        prompts: list[str],
        steps: int,
        kind: str,
        share: Any = 0.8,
        self_share: Any = 0.4,
        weights: dict[str, Any] | None = None,
    ) -> None:
        source, *targets = prompts
        self.kind, self.alpha = kind, schedule(tokenizer, targets, steps, share)
        self.equalizer = None if weights is None else equalizer(tokenizer, targets, weights)
        low, high = self_share if isinstance(self_share, tuple) else (0, self_share)
        self.self_steps = int(steps * low), int(steps * high)
        if kind == "replace":
            self.mapper = torch.stack([replacement(tokenizer, source, target) for target in targets])
        elif kind == "refine":
            found = [refinement(tokenizer, source, target) for target in targets]
            self.mapper, alphas = (torch.stack(part) for part in zip(*found, strict=True))
            self.alphas = alphas[:, None, None]

    def borrowed(self, base: Tensor, own: Tensor) -> Tensor:
        """base (heads, N, 77), own (targets, heads, N, 77)."""
        if self.kind == "replace":
            return torch.einsum("hpw,bwn->bhpn", base, self.mapper)
        if self.kind == "refine":
            gathered = base[:, :, self.mapper].permute(2, 0, 1, 3)
            return gathered * self.alphas + own * (1 - self.alphas)
        return base[None].expand_as(own)

    def cross(self, maps: Tensor, step: int) -> Tensor:
        base, own = maps[0], maps[1:]
        borrowed = self.borrowed(base, own)
        if self.equalizer is not None:
            borrowed = borrowed * self.equalizer[:, None, None]
        alpha = self.alpha[step]
        return torch.cat([maps[:1], borrowed * alpha + (1 - alpha) * own])

    def replaces_self(self, step: int, pixels: int, most: int = 16) -> bool:
        return self.self_steps[0] <= step < self.self_steps[1] and pixels <= most**2


def blend(maps: Tensor, alpha: Tensor, size: tuple[int, int], threshold: float, pool: bool) -> Tensor:
    """Pixels of each prompt (B, 1, H, W) above the threshold; maps (B, L, 1, h, w, 77), alpha (B, 1, 1, 1, 1, 77)."""
    mask = (maps * alpha).sum(-1).mean(1)
    if pool:
        mask = torch.nn.functional.max_pool2d(mask, (3, 3), (1, 1), padding=(1, 1))
    mask = torch.nn.functional.interpolate(mask, size=size)
    mask = mask / mask.max(2, keepdims=True)[0].max(3, keepdims=True)[0]
    return mask.gt(threshold)


def blend_stable(x: Tensor, maps: Tensor, alpha: Tensor, threshold: float = 0.3) -> Tensor:
    """prompt-to-prompt_stable, every step; for one target, as there."""
    mask = blend(maps, alpha, x.shape[2:], threshold, True)
    union = (mask[:1] + mask[1:]).to(x.dtype)
    return x[:1] + union * (x - x[:1])


def blend_null_text(
    x: Tensor,
    maps: Tensor,
    alpha: Tensor,
    step: int,
    steps: int,
    excluded: Tensor | None = None,
    thresholds: tuple[float, float] = (0.3, 0.3),
    start: float = 0.2,
) -> Tensor:
    """null_text_w_ptp; step is counted from 0, the notebook's counter from 1."""
    if step + 1 <= int(start * steps):
        return x
    mask = blend(maps, alpha, x.shape[2:], thresholds[0], True)
    mask = mask[:1] + mask
    if excluded is not None:
        other = blend(maps, excluded, x.shape[2:], thresholds[1], False)
        mask = mask * ~(other[:1] + other)
    return x[:1] + mask.to(x.dtype) * (x - x[:1])
