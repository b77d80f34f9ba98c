"""Classifier guidance of a run's first stage, in any task (`pydiff.diffusion.classifier`)."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from pydiff.arrays import Array, is_array, is_torch
from pydiff.cascade import StagePlan, Start
from pydiff.diffusion.classifier import Classifier, class_gradient
from pydiff.diffusion.guidance import Scale, per_level
from pydiff.diffusion.rows import Row
from pydiff.networks import UnexportedError
from pydiff.tasks.checks import integer, is_list

MOST_CLASSES = 1 << 31


@dataclass(frozen=True)
class ClassifierOptions:
    """A classifier that leads the first stage's pictures to a class (Dhariwal and Nichol 2021).

    classifier: f(x, t) -> logits (B, classes), a module in eval mode or a function of torch's operators, trained on
    noisy pictures: x (B, C, h, w) is what the stage's network sees, its noisy picture or latents (no channels that
    stand beside them), and t (B,) what the network is told, both float32 at least. Every row of logits must be of its
    own picture alone. classifier_labels: the class, an int or one per picture, by default class_labels.
    classifier_scale: what the gradient of log p(class | x) is multiplied by; a number, one per noise level, or a
    function (level, levels) -> number. Where it is 0, and where x is noise alone (alpha is 0), the classifier is not
    called. Settings hold the classifier's name; to make a picture again, give them with the classifier itself.
    """

    classifier: Classifier | None = None
    classifier_scale: Scale = 1.0
    classifier_labels: int | Sequence[int] | Array | None = None


CLASSIFIER = tuple(ClassifierOptions.__dataclass_fields__)


class ClassifierGuidance(NamedTuple):
    """Checked options. labels: one per picture; scales: one per noise level."""

    classifier: Classifier
    labels: tuple[int, ...]
    scales: tuple[float, ...]

    def applied(self, start: Start) -> Start:
        """The start whose prediction the classifier leads."""

        def gradient(x: Array, row: Row) -> Array | None:
            scale = self.scales[row.level]
            if scale == 0 or row.step.alpha == 0:
                return None
            return scale * class_gradient(self.classifier, self.labels, x, row)

        return start._replace(gradient=gradient)

    def said(self, index: int) -> dict[str, Any]:
        """What settings say of it for a picture."""
        one = len(set(self.scales)) == 1
        return {
            "classifier": getattr(self.classifier, "__qualname__", type(self.classifier).__qualname__),
            "classifier_scale": self.scales[0] if one else list(self.scales),
            "classifier_labels": self.labels[index],
        }


def classifier_guidance(
    given: Mapping[str, Any], plan: StagePlan, class_labels: Array | None, count: int
) -> ClassifierGuidance | None:
    """The options of a run of `count` pictures whose first stage has this plan; None where no classifier is given.
    Raises ValueError, by name, for what is no classifier, label or scale."""
    options = ClassifierOptions(**given)
    classifier: Any = options.classifier
    if classifier is None:
        for name in given:
            raise ValueError(f"{name} is given without a classifier; give both, or none")
        return None
    if not callable(classifier):
        raise ValueError(
            f"classifier is {classifier!r}; expected a module or a function of (x, t), of which settings hold only the "
            "name"
        )
    if not is_torch(plan.stage.unet.like):
        raise UnexportedError("classifier is given, whose gradient needs torch weights, not an exported model")
    if isinstance(classifier, sys.modules["torch"].nn.Module) and classifier.training:
        raise ValueError("classifier is in training mode, where pictures may depend on each other; call its eval()")
    labels = _labels(class_labels if options.classifier_labels is None else options.classifier_labels, count)
    scales = per_level("classifier_scale", options.classifier_scale, plan.table.levels)
    return ClassifierGuidance(classifier, labels, tuple(scales))


def _labels(given: Any, count: int) -> tuple[int, ...]:
    """One per picture."""
    if given is None:
        raise ValueError("classifier is given without classifier_labels; give the class, an int or one per picture")
    given = given.tolist() if is_array(given) else given
    entries = list(given) if is_list(given) else [given] * count
    if len(entries) != count:
        raise ValueError(f"classifier_labels lists {len(entries)} for {count} pictures; give an int or one per picture")
    return tuple(integer("classifier_labels", entry, 0, MOST_CLASSES - 1) for entry in entries)
