"""steps.json is enough to make the default picture: walked here with NumPy and the shipped graph alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray

import pydiff
from pydiff.export.steps import default_plans, steps_json
from pydiff.tasks.plan import Options, plan_stages

WEIGHTS = Path(pydiff.__file__).parent / "embedded" / "weights"
RUN = 5e-4


def limited(x0: NDArray[Any], threshold: dict[str, Any]) -> NDArray[Any]:
    """Dynamic thresholding, Imagen section 2.3."""
    assert threshold["kind"] == "dynamic"
    s = np.quantile(np.abs(x0), threshold["percentile"])
    s = np.clip(s, 1, threshold["max_value"])
    return np.clip(x0, -s, s) / s


def walked(steps: dict[str, Any], predict: Any, x: NDArray[Any]) -> NDArray[Any]:
    """Deterministic rows of v-prediction."""
    x, previous = steps["initial_scale"] * x, None
    for row in steps["rows"]:
        assert row["evaluate"]
        assert not row["draws"] or row["c_noise"] == 0
        made = predict(row["input_scale"] * x, row["t"])[:, : len(x)]
        v = np.tensordot(row["weights"], made, 1)
        raw = row["alpha"] * x - row["sigma"] * v
        x0 = limited(raw, steps["threshold"])
        x = row["c_x"] * x + row["c_denoised"] * x0 + row["c_raw"] * raw
        x = x + (row["c_previous"] * previous if row["c_previous"] else 0)
        previous = x0
    return x


def test_default_picture(pipe: pydiff.Pipeline) -> None:
    stage = pipe.cascade.stages[0]
    steps = json.loads(json.dumps(steps_json(default_plans([stage])[0])))
    assert steps["branches"] == ["text", "null"]
    assert steps["prediction_type"] == "v_prediction"
    assert stage.text is not None
    words = stage.text.encode(["a red circle", ""]).states.numpy()
    session = onnxruntime.InferenceSession(WEIGHTS / "base" / "unet.onnx")

    def predict(x: NDArray[Any], t: float) -> NDArray[Any]:
        inputs = {
            "sample": np.stack([x, x]).astype(np.float32),
            "timestep": np.full(2, t, np.float32),
            "encoder_hidden_states": words,
            "encoder_attention_mask": np.ones(words.shape[:2], np.float32),
        }
        return session.run(None, inputs)[0]

    noise = torch.randn(steps["shape"], generator=torch.Generator().manual_seed(7)).numpy()
    made = walked(steps, predict, noise.astype(np.float64))
    expected = pipe.generate("a red circle", size=64, seed=7, output_type="latent").images[0].numpy()
    assert np.abs(made - expected).max() < RUN


def test_stages_that_enlarge(pipe: pydiff.Pipeline) -> None:
    stage = pipe.cascade.stages[1]
    plan = plan_stages([stage], Options())[0]
    steps = steps_json(plan)
    assert stage.noising is not None
    level = stage.noising.level(60)
    assert steps["low_res"] == {"noise_level": 60, "alpha": level.alpha, "sigma": level.sigma}
    assert steps["shape"] == [3, 256, 256]
    assert steps["latents"] is None
    assert len(steps["rows"]) == 5
    assert all(row["weights"] == [1.0] for row in steps["rows"])
