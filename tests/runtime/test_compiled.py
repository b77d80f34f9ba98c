"""Networks by torch.compile, with a compiler that counts graphs and changes nothing in them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import pydiff
from pydiff.models.autoencoder import Autoencoder, AutoencoderConfig
from pydiff.models.unet2d import UNet2D, UNet2DConfig
from pydiff.nn.cond import Cond
from pydiff.nn.edit import AttentionEdit, Heat
from pydiff.runtime import fastest
from pydiff.runtime.compiled import (
    ByKind,
    Compiled,
    CompiledAutoencoder,
    CompiledUNet,
    Once,
    RecompiledError,
    check_mode,
    compiled,
    compiled_codec,
    inductor,
)
from pydiff.runtime.graphed import GraphedUNet
from pydiff.step_cache import Reusing
from tests.models.test_unet import Case, make, randomise
from tests.runtime.test_graphed import Rerun, masked
from tests.runtime.test_planned import AUTOENCODER, edits

RED, BLUE = "a red circle", "a blue square left of a green circle"


class Counting:
    """A compiler that runs graphs as they are."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, graph: torch.fx.GraphModule, given: list[Any]) -> Any:
        self.graphs += 1
        return graph


@pytest.fixture(autouse=True)
def _no_gradients() -> Any:
    with torch.no_grad():
        yield


def over(case: Case) -> tuple[CompiledUNet, Counting]:
    backend = Counting()
    network = compiled(case.unet, backend)
    assert isinstance(network, CompiledUNet)
    return network, backend


def close(made: Tensor, expected: Tensor) -> None:
    """torch's operators stand in place of the core's."""
    assert made.shape == expected.shape
    torch.testing.assert_close(made, expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("name", ["sd1", "corners", "if_super", "if_text_only"])
def test_a_network_is_one_graph(name: str) -> None:
    case = make(name, torch.float32, 4)
    network, backend = over(case)
    for scale in (1.0, 0.5):
        text = None if case.cond.text is None else case.cond.text * scale
        prepared = network.prepare(masked(case.cond._replace(text=text)))
        for step in range(3):
            x, t = case.x + step, case.t - 100 * step
            close(network(x, t, prepared), case.unet(x, t, prepared))
    assert backend.graphs == 1


def test_kinds_of_calls_are_compiled_once_each() -> None:
    """More kinds than torch.compile takes of one function."""
    for _ in range(2):
        backend = Counting()
        kinds, given = ByKind(torch.neg, backend), [torch.ones(2 + size) for size in range(20)]
        for x in (*given, *given):
            assert torch.equal(kinds.of(x)(x), -x)
        assert backend.graphs == len(given) > torch._dynamo.config.recompile_limit


def test_inference_mode_and_threads_are_kinds() -> None:
    backend, x = Counting(), torch.ones(2)
    kinds = ByKind(torch.neg, backend)
    kinds.of(x)(x)
    with torch.inference_mode():
        for _ in range(2):
            kinds.of(x)(x)
            kinds.of(x * 1)(x * 1)
    assert backend.graphs == 3
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(threads + 1)
        kinds.of(x)(x)
    finally:
        torch.set_num_threads(threads)
    kinds.of(x)(x)
    assert backend.graphs == 4


def test_the_outermost_level_alone() -> None:
    case = make("if", torch.float32, 4)
    network, backend = over(case)
    prepared = network.prepare(case.cond)
    for shift in (0.0, 1.0):
        (ours, deep), (theirs, expected) = (
            of.reusing(case.x + shift, case.t, prepared, None) for of in (network, case.unet)
        )
        close(ours, theirs)
        close(deep, expected)
        (ours, kept), (theirs, _) = (of.reusing(case.x - 1, case.t, prepared, expected) for of in (network, case.unet))
        close(ours, theirs)
        assert kept is expected
    assert backend.graphs == 2


def test_edits_and_captures_are_the_modules() -> None:
    case = make("if", torch.float32, 4)
    network, backend = over(case)
    prepared = network.prepare(case.cond)
    for edit in edits(9).values():
        edited = prepared._replace(edit=edit)
        assert torch.equal(network(case.x, case.t, edited), case.unet(case.x, case.t, edited))
    heat = Heat()
    capturing = AttentionEdit(9).capturing(torch.eye(9).expand(2, 9, 9).contiguous(), heat)
    network(case.x, case.t, prepared._replace(edit=capturing))
    assert heat.counts
    with torch.enable_grad():
        given = case.x.clone().requires_grad_()
        network(given, case.t, network.prepare(case.cond)).sum().backward()
    assert given.grad is not None
    with pytest.raises(ValueError, match=r"x .*\(2, 2, 24, 16\)"):
        network(case.x[:, :2], case.t, prepared)
    assert backend.graphs == 0


def test_what_would_be_compiled_again_is_refused() -> None:
    case = make("if", torch.float32, 4)
    network, backend = over(case)
    prepared = network.prepare(case.cond)
    made = network(case.x, case.t, prepared)
    case.unet.to(memory_format=torch.channels_last)
    with pytest.raises(RecompiledError, match="would be compiled a second time: after its first call the weights"):
        network(case.x, case.t, prepared)
    case.unet.to(memory_format=torch.contiguous_format)
    assert torch.equal(network(case.x, case.t, prepared), made)
    assert backend.graphs == 1


def test_what_the_compiler_refuses_may_be_tried_again() -> None:
    def refuses(graph: torch.fx.GraphModule, given: list[Any]) -> Any:
        raise RuntimeError("no C++ compiler")

    once = Once(torch.neg, refuses)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="no C\\+\\+ compiler"):
            once(torch.ones(2))
    once.backend = Counting()
    assert torch.equal(once(torch.ones(2)), -torch.ones(2))


def test_many_calls_at_once() -> None:
    case = make("if", torch.float32, 4)
    network, backend = over(case)
    prepared = [network.prepare(case.cond._replace(text=case.cond.text * scale)) for scale in (0.5, 1.0)]
    expected = [case.unet(case.x, case.t, each) for each in prepared]

    def run(index: int) -> Tensor:
        with torch.no_grad():
            made: Tensor = network(case.x, case.t, prepared[index % 2])
        return made

    with ThreadPoolExecutor(4) as pool:
        for index, made in enumerate(pool.map(run, range(16))):
            close(made, expected[index % 2])
    assert backend.graphs == 1


def test_compiled_calls_are_replayed() -> None:
    """As on a GPU, where graphs are of what was compiled."""
    case = make("if", torch.float32, 4)
    inner, backend = over(case)
    recorder = Rerun()
    network = GraphedUNet(inner, recorder)
    for scale in (1.0, 2.0):
        prepared = network.prepare(_scaled(case.cond, scale))
        close(network(case.x, case.t, prepared), case.unet(case.x, case.t, prepared))
        with torch.inference_mode():
            close(network(case.x, case.t, prepared), case.unet(case.x, case.t, prepared))
    assert (backend.graphs, recorder.recorded) == (1, 1)
    edited = network.prepare(case.cond)._replace(edit=edits(9)["text"])
    assert torch.equal(network(case.x, case.t, edited), case.unet(case.x, case.t, edited))


def _scaled(cond: Cond, scale: float) -> Cond:
    assert cond.text is not None
    return cond._replace(text=cond.text * scale)


def test_networks_of_pixels() -> None:
    torch.manual_seed(0)
    kinds = {"down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D")}
    options = {"in_channels": 3, "out_channels": 3, "block_out_channels": (16, 32), "norm_num_groups": 8}
    unet = UNet2D(UNet2DConfig.from_dict({**kinds, **options})).eval()
    randomise(unet, 4)
    backend = Counting()
    network, x = compiled(unet, backend), torch.randn(2, 3, 16, 16)
    assert isinstance(network, Compiled)
    assert not isinstance(network, Reusing)
    prepared = network.prepare(Cond(None))
    for t in (500, 20):
        close(network(x, torch.tensor(t), prepared), unet(x, torch.tensor(t), prepared))
    assert backend.graphs == 1


def test_autoencoders() -> None:
    torch.manual_seed(3)
    module = Autoencoder(AutoencoderConfig.from_dict(AUTOENCODER)).eval()
    randomise(module, 4)
    backend = Counting()
    codec = compiled_codec(module, backend)
    assert isinstance(codec, CompiledAutoencoder)
    latents, image = torch.randn(2, 4, 16, 16), torch.rand(2, 3, 32, 32)
    for scale in (1.0, 2.0):
        close(codec.decode(latents * scale), module.decode(latents * scale))
        close(codec.encode(image / scale), module.encode(image / scale))
    assert backend.graphs == 2
    with torch.enable_grad():
        assert torch.equal(codec.decode(latents), module.decode(latents))
    assert torch.equal(codec.scaled(latents), module.scaled(latents))


@pytest.fixture(scope="module")
def loaded() -> Any:
    """The embedded model loaded with compile="default", and what compiled it."""
    backend, asked = Counting(), list[str]()

    def counting(mode: str) -> Counting:
        asked.append(mode)
        return backend

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fastest, "inductor", counting)
        pipe = pydiff.load(compile=True)
    assert set(asked) == {"default"}
    return pipe, backend


def test_a_run_is_compiled_once(loaded: Any, pipe: pydiff.Pipeline) -> None:
    ours, backend = loaded
    assert all(isinstance(stage.unet, CompiledUNet) for stage in ours.cascade.stages)
    for sampler in ("ddpm", "ddim", "euler", "dpmpp_2m", "heun"):
        for prompt in (RED, BLUE):
            how = {"seed": 3, "size": 64, "num_inference_steps": 3, "sampler": sampler, "output_type": "np"}
            made, expected = (of.generate(prompt, **how).images for of in (ours, pipe))
            assert abs(made - expected).max() < 1e-3
    assert backend.graphs == 1
    ours.generate(RED, seed=3, size=64, num_inference_steps=4, cache_steps=2)
    ours.generate(BLUE, seed=4, size=64, num_inference_steps=4, cache_steps=2)
    assert backend.graphs == 2  # and the outermost level alone


def test_tasks_with_edits_run(loaded: Any, pipe: pydiff.Pipeline) -> None:
    ours, backend = loaded
    before = backend.graphs
    how = {"seed": 3, "size": 64, "num_inference_steps": 3, "output_type": "np"}
    made, expected = (of.edit(RED, "a green circle", **how) for of in (ours, pipe))
    assert abs(made.images - expected.images).max() < 1e-3
    made, expected = (of.generate(RED, capture=["circle"], **how) for of in (ours, pipe))
    assert abs(made.images - expected.images).max() < 1e-3
    assert backend.graphs - before <= 1  # steps after the edit's last are calls of four rows


def test_modes() -> None:
    assert [check_mode(given) for given in (False, True, "max-autotune")] == [None, "default", "max-autotune"]
    known = "default, .*reduce-overhead, .*max-autotune"
    with pytest.raises(ValueError, match=f"compile is 'fast'; expected True, False or a mode of torch's: {known}"):
        pydiff.load(compile="fast")


def test_exported_folders_are_not_compiled(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    for given in (True, "max-autotune"):
        with pytest.raises(ValueError, match=f"compile is {given!r}, which is torch's, but ONNX Runtime runs"):
            pydiff.load(tmp_path, compile=given)
    with pytest.raises(ValueError, match=r"compile is True, which is torch's"):
        pydiff.load(provider="cpu", compile=True)


@pytest.mark.slow
def test_torchs_own_compiler() -> None:
    case = make("if", torch.float32, 4)
    for mode in ("default", "max-autotune"):
        network = compiled(case.unet, inductor(mode))
        prepared = network.prepare(case.cond)
        for step in range(2):
            x, t = case.x + step, case.t - 100 * step
            close(network(x, t, prepared), case.unet(x, t, prepared))
