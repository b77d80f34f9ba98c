"""Whether an exported folder computes what torch does: every graph, and the default run of every stage."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray

from pydiff.arrays import inference, like, on_host
from pydiff.cascade import Branch, Cascade, Stage, StagePlan, Start
from pydiff.diffusion import loop
from pydiff.diffusion.noise import Noise
from pydiff.export.graphs import Network, example_inputs
from pydiff.models.unet import UNet
from pydiff.networks import Denoiser
from pydiff.nn.cond import Cond
from pydiff.nn.edit import AttentionEdit, Heat, PixelEdit
from pydiff.tasks.plan import Options, plan_stages
from pydiff.walk import Network as Predict

# Of a call, in torch's float32: the largest difference of float32, over the largest value where that is above 1; of
# smaller weights the root mean square of the differences, over that of the values.
CALL_BOUNDS = {"float32": 1e-4, "float16": 0.02, "int8": 0.25}
RUN_BOUND = 5e-4  # of float32, as above; runs of smaller weights are told, and free
NUDGE = 1e-6  # share of x by which torch's own run is changed where a run leaves RUN_BOUND,
AMPLIFIED = 10.0  # and how much more than that changes its end the graphs' rounding may
MOST_ROWS = 50  # of a run that are compared
MOST_SIDE = 64  # of x in such a run
SIZES = ({"batch": 1, "tokens": 3, "height": 3, "width": 2}, {"batch": 3, "tokens": 11, "height": 2, "width": 4})


class Check(NamedTuple):
    """One comparison. error and bound: as CALL_BOUNDS and RUN_BOUND say; None: there is no bound."""

    stage: str
    what: str
    sizes: Mapping[str, int]
    error: float
    bound: float | None

    @property
    def holds(self) -> bool:
        return bool(np.isfinite(self.error)) and (self.bound is None or self.error <= self.bound)


def compare(
    names: Sequence[str], ours: Cascade, exported: Cascade, networks: Sequence[Sequence[Network]], dtype: str
) -> Iterator[Check]:
    """Checks of every stage's graphs, then of its run. ours: run by torch in float32, exported: by ONNX Runtime.
    networks: those of each stage."""
    error = largest if dtype == "float32" else root_mean_square
    for place, (name, stage) in enumerate(zip(names, ours.stages, strict=True)):
        other = exported.stages[place]
        for network in networks[place]:
            for what, sizes, wanted, made in _calls(network, stage, other):
                values = [error(one, two) for one, two in zip(made, wanted, strict=True)]
                yield Check(name, what, sizes, max(values), CALL_BOUNDS[dtype])
        yield _run_check(name, networks[place][0], stage, other, dtype)


def _run_check(name: str, network: Network, stage: Stage, other: Stage, dtype: str) -> Check:
    """The default run of a stage, or its first MOST_ROWS rows; of pictures whose x has sides of at most MOST_SIDE."""
    largest_side = max(stage.shape(stage.size)[1:])
    side = max(network.least, min(MOST_SIDE, largest_side) // network.least * network.least)
    size = (side * stage.factor, side * stage.factor)
    plan, again = (plan_stages([one], Options(), [size])[0] for one in (stage, other))
    sizes = {"rows": min(MOST_ROWS, len(plan.table.rows)), "side": side}
    wanted, made = _run(network, plan, side), _run(network, again, side)
    if dtype != "float32":
        return Check(name, "run", sizes, root_mean_square(made, wanted), None)
    error, bound = largest(made, wanted), RUN_BOUND
    if error > bound:  # a network that amplifies rounding does so to torch's own too
        bound = max(bound, AMPLIFIED * largest(_run(network, plan, side, NUDGE), wanted))
    return Check(name, "run", sizes, error, bound)


def largest(made: NDArray[Any], wanted: NDArray[Any]) -> float:
    """The largest difference, over the largest value where that is above 1."""
    return float(np.abs(made - wanted).max() / max(1.0, float(np.abs(wanted).max())))


def root_mean_square(made: NDArray[Any], wanted: NDArray[Any]) -> float:
    """The root mean square of the differences, over that of the values."""
    return float(np.sqrt(np.square(made - wanted).mean() / max(float(np.square(wanted).mean()), 1e-12)))


Call = tuple[str, Mapping[str, int], list[NDArray[Any]], list[NDArray[Any]]]


def _calls(network: Network, stage: Stage, other: Stage) -> Iterator[Call]:
    for seed, shape in enumerate(SIZES):
        scaled = {side: shape[side] * network.least for side in ("height", "width")}
        sizes = {**shape, **scaled}
        inputs = example_inputs(network, sizes, seed)
        if network.name == "unet":
            yield "unet", sizes, *_predicted(stage.unet, other.unet, inputs, edits=False)
            if network.edits:
                yield "unet_edit", sizes, *_predicted(stage.unet, other.unet, inputs, edits=True)
        else:
            with inference():
                wanted = network.module(**inputs)
            wanted = wanted if isinstance(wanted, tuple) else (wanted,)
            yield network.name, sizes, [on_host(one) for one in wanted], _coded(network, stage, other, inputs)


def _coded(network: Network, stage: Stage, other: Stage, inputs: Mapping[str, Any]) -> list[NDArray[Any]]:
    """What the exported stage's autoencoder or text encoder makes."""
    given = {name: on_host(value) for name, value in inputs.items()}
    codec, text = cast(Any, other.codec), cast(Any, other.text)
    if network.name == "vae_encoder":
        return [codec._moments(given["sample"])]
    if network.name == "vae_decoder":
        return [codec._picture(given["latent_sample"])]
    assert stage.text is not None
    own = [cast(Any, runner).network for runner in stage.text.runners]
    runner = text.runners[own.index(cast(Any, network.module).network)]
    ids = given["input_ids"]
    mask = given.get("attention_mask", np.ones_like(ids)) != 0
    made = [runner(ids, mask, skip) for skip in range(runner.most_skip + 1)]
    return [one.states for one in made] + ([] if made[0].pooled is None else [made[0].pooled])


def _predicted(
    ours: Denoiser, exported: Denoiser, inputs: Mapping[str, Any], edits: bool
) -> tuple[list[NDArray[Any]], list[NDArray[Any]]]:
    """Predictions, and with edits what was captured of attention."""
    made = []
    for unet in (ours, exported):
        given = {name: like(on_host(value), unet.like) for name, value in inputs.items() if name != "class_labels"}
        given |= {name: _own(unet, value) for name, value in inputs.items() if name == "class_labels"}
        cond, heat = _cond(given), Heat()
        if edits:
            tokens = inputs["encoder_hidden_states"].shape[1]
            cond = cond._replace(edit=_edit(unet, len(inputs["sample"]), tokens, heat, "pooled" in inputs))
        with inference():
            x = unet(given["sample"], given["timestep"], unet.prepare(cond))
        made.append([on_host(x), *(on_host(heat.sums[pixels]) for pixels in sorted(heat.sums))])
    return made[0], made[1]


def _own(unet: Denoiser, value: torch.Tensor) -> Any:
    """In the network's kind, its numbers left as they are."""
    return value if isinstance(unet, torch.nn.Module) else value.numpy()


def _cond(given: Mapping[str, Any]) -> Cond:
    added = {name: given[name] for name in ("text_embeds", "time_ids") if name in given}
    text, mask, labels = (
        given.get(name) for name in ("encoder_hidden_states", "encoder_attention_mask", "class_labels")
    )
    return Cond(text, mask, labels, added or None)


def _edit(unet: Denoiser, rows: int, tokens: int, heat: Heat, pools: bool) -> AttentionEdit:
    """The first row lends words to the others, and its pixels' maps to the last one; all are captured."""
    rng = np.random.default_rng(0)
    source, own = np.zeros(rows, np.int64), np.arange(rows)
    transfer, keep, probe = (
        rng.random((rows, tokens, tokens)) / tokens,
        rng.random((rows, tokens)),
        rng.random((rows, tokens, 2)),
    )
    left = (own > 0) & (own < rows - 1)

    def mine(value: NDArray[Any]) -> Any:
        if isinstance(unet, UNet):
            made = torch.from_numpy(value)
            return made.float() if made.is_floating_point() else made
        return value.astype(np.float32) if value.dtype.kind == "f" else value

    pixels = PixelEdit(mine(np.where(left, own, 0)), "map", unborrowed=mine(left))
    edit = AttentionEdit(
        tokens,
        mine(source),
        mine(transfer),
        mine(keep),
        pixel_edit=pixels,
        pooled=mine(source) if pools else None,
    )
    return edit.capturing(mine(probe), heat)


def _run(network: Network, plan: StagePlan, side: int, nudge: float = 0.0) -> NDArray[Any]:
    """x at the end; nudge: share of the first x that is added to it."""
    unet, channels = plan.stage.unet, plan.stage.channels
    noise = Noise([0])
    x = plan.table.initial_scale * (1 + nudge) * noise((channels, side, side), like=unet.like)
    branches = []
    for seed in range(len(plan.guidance.weights[0])):
        inputs = example_inputs(network, {"batch": 1, "tokens": 11, "height": side, "width": side}, seed)
        given = {name: like(on_host(value), unet.like) for name, value in inputs.items() if name != "class_labels"}
        given |= {name: _own(unet, value) for name, value in inputs.items() if name == "class_labels"}
        beside = given["sample"][:, channels:]
        branches.append(Branch(_cond(given), beside if beside.shape[1] else None))
    table = plan.table.until(MOST_ROWS)
    walk = loop.sample(
        Predict(plan._replace(table=table), Start(x, noise, branches)),
        table,
        plan.guidance,
        x=x,
        noise=noise,
        prediction_type=plan.stage.sampling.prediction_type,
        threshold=plan.threshold,
    )
    with inference():
        for state in walk:
            x = state.x
    return on_host(x)
