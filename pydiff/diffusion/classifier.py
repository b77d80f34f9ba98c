"""Classifier guidance (Dhariwal and Nichol 2021): a classifier of noisy pictures leads the prediction to a class.

The score becomes that of p(x) p(y | x)^s, so that eps' = eps - sigma s grad_x log p(y | x) (section 4.2, algorithm 2),
with any sampler. Algorithm 1, which moves DDPM's mean by its variance times the gradient, is this but for terms that
vanish with the size of the steps. The gradient is one more branch of the guided prediction: guidance rescaling and
thresholding act on what it leads to, as on that of any other branch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pydiff.arrays import Array, is_torch, namespace
from pydiff.diffusion.rows import Row
from pydiff.ops.guided_step import Step

Classifier = Callable[[Array, Array], Array]  # (input_scale x (B, C, H, W), t (B,)) -> logits (B, classes)


def class_gradient(classifier: Classifier, labels: Sequence[int], x: Array, row: Row) -> Array:
    """grad_x log p(y | x) (B, C, H, W) at the level of a row, in float32 at least, also under inference mode.

    x (B, C, H, W); labels: B classes, from 0. The classifier gets what the network gets: x times the row's input_scale,
    and its t once per picture, in float32 at least. p is the softmax of its logits. Raises ValueError for an answer
    that is not finite logits (B, classes) with a gradient to x, for labels that it does not know, and for an x without
    torch, which makes the gradient.
    """
    if not is_torch(x):
        raise ValueError("classifier guidance needs torch's gradients, but this model runs without torch; leave it out")
    import torch

    with torch.inference_mode(False), torch.enable_grad():
        leaf = x.detach().clone().to(torch.promote_types(x.dtype, torch.float32)).requires_grad_()
        t = torch.full((len(leaf),), row.t, dtype=leaf.dtype, device=leaf.device)
        logits = classifier(leaf if row.input_scale == 1 else leaf * row.input_scale, t)
        _check_logits(logits, labels)
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        chosen = wide.log_softmax(dim=1)[range(len(labels)), labels]
        gradient = torch.autograd.grad(chosen.sum(), leaf, allow_unused=True)[0]
    if gradient is None:
        raise ValueError(_no_gradient("they do not depend on x"))
    if not chosen.isfinite().all() or not gradient.isfinite().all():
        raise ValueError(f"classifier at t = {row.t:g} gives a log probability or a gradient that is not finite")
    return gradient.detach()


def shift(gradient: Array, step: Step, prediction_type: str) -> Array:
    """What a gradient of log p(y | x) adds to the network's prediction, (B, C, H, W).

    With x = alpha x0 + sigma noise, D = (x + sigma^2 score) / alpha: "sample" moves by (sigma^2 / alpha) gradient,
    "epsilon" = (x - alpha D) / sigma by -sigma gradient, and "v_prediction" = (alpha x - D) / sigma by
    -(sigma / alpha) gradient. Raises ValueError where alpha is 0: x says nothing about x0 there.
    """
    if step.alpha == 0:
        raise ValueError("alpha is 0, where x says nothing about its class; leave the gradient out there")
    if prediction_type == "epsilon":
        return -step.sigma * gradient
    return (step.sigma if prediction_type == "sample" else -1) * step.sigma / step.alpha * gradient


def with_gradient(predictions: Array, gradient: Array, step: Step, prediction_type: str) -> Array:
    """Predictions (R, B, C or 2 C, H, W) with one branch more, of weight 1, that adds the gradient; variance channels
    are branch 0's alone."""
    xp = namespace(predictions)
    branch = xp.zeros_like(predictions[:1])
    branch[:, :, : gradient.shape[1]] = shift(gradient, step, prediction_type)
    return xp.concat([predictions, branch])


def _check_logits(logits: object, labels: Sequence[int]) -> None:
    import torch

    fits = isinstance(logits, torch.Tensor) and logits.ndim == 2 and len(logits) == len(labels) and logits.shape[1] > 0
    if not isinstance(logits, torch.Tensor) or not fits or not logits.is_floating_point():
        came = f"{logits.dtype} {tuple(logits.shape)}" if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise ValueError(f"classifier returned {came}; expected floats ({len(labels)}, classes), one row per picture")
    if max(labels) >= logits.shape[1]:
        raise ValueError(
            f"classifier_labels holds {max(labels)}, but the classifier returned logits of {logits.shape[1]} "
            f"classes; expected 0 to {logits.shape[1] - 1}"
        )
    if not logits.requires_grad:
        raise ValueError(_no_gradient("they are detached, or made under no_grad"))


def _no_gradient(why: str) -> str:
    return f"classifier returned logits without a gradient to x: {why}; compute them from x with torch's operators"
