"""Networks run by plans against the modules that they are made of, which other tests compare with diffusers."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pydiff
from pydiff.models.autoencoder import Autoencoder, AutoencoderConfig
from pydiff.models.unet import UNet, UNetConfig
from pydiff.networks import Foreseeing
from pydiff.nn.cond import Cond, Prepared
from pydiff.nn.edit import AttentionEdit, Heat, PixelEdit, RowsIn
from pydiff.ops import native
from pydiff.runtime.planned import PlannedAutoencoder, PlannedUNet, planned, planned_codec, why_not
from tests.models.test_unet import CONFIGS, make, randomise

pytestmark = pytest.mark.skipif(
    not hasattr(native.core(), "Program"), reason="the core or the processor has no products of matrices"
)
WIDE = CONFIGS["sd1"] | {"block_out_channels": (64, 128), "norm_num_groups": 16}  # wide enough for Winograd
WIDE_IF = CONFIGS["if"] | {"block_out_channels": (64, 96), "norm_num_groups": 16, "cross_attention_dim": 32}
KNOWN = [name for name in CONFIGS if name not in ("corners", "if_mixed")]
BFLOAT16 = getattr(native.core(), "bfloat16_products", False)


@pytest.fixture(autouse=True)
def _no_gradients() -> Any:
    with torch.no_grad():
        yield


def wide(config: dict[str, Any] = WIDE, rows: int = 2, size: tuple[int, int] = (18, 24)) -> tuple[UNet, Tensor, Cond]:
    torch.manual_seed(1)
    unet = UNet(UNetConfig.from_dict(config)).eval()
    randomise(unet, 4)
    return unet, torch.randn(rows, unet.config.in_channels, *size), Cond(torch.randn(rows, 7, unet.config.text_dim))


def closeness(out: Tensor, expected: Tensor) -> float:
    """The root of the mean square of the difference, beside the expected one's."""
    return float((out.double() - expected.double()).norm() / expected.double().norm())


@pytest.mark.parametrize("size", [(24, 16), (16, 16)], ids=str)
@pytest.mark.parametrize("name", KNOWN)
def test_every_family_equals_its_module(name: str, size: tuple[int, int]) -> None:
    case = make(name, torch.float32, 4, size)
    network = planned(case.unet)
    assert isinstance(network, PlannedUNet)
    prepared = network.prepare(case.cond)
    torch.testing.assert_close(
        network(case.x, case.t, prepared), case.unet(case.x, case.t, prepared), atol=2e-5, rtol=0
    )


@pytest.mark.parametrize("name", KNOWN)
def test_what_is_foreseen_is_what_a_call_computes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = make(name, torch.float32, 4)
    network, times = planned(case.unet), [900.0, 500.25, 1 / 3, 0.0]
    assert isinstance(network, Foreseeing)
    prepared = network.prepare(case.cond)
    foreseen = network.foreseen(prepared, times)
    made = [network(case.x, torch.tensor(t), prepared) for t in (*times, 7.0)]
    monkeypatch.setattr(case.unet, "times", None)  # which no call needs that was foreseen
    for t, expected in zip(times, made, strict=False):
        assert torch.equal(network(case.x, torch.tensor(t), foreseen), expected)
    monkeypatch.undo()
    assert torch.equal(network(case.x, torch.tensor(7), foreseen), made[-1])
    assert torch.equal(network(case.x, torch.full((len(case.x),), 900), foreseen), made[0])


@pytest.mark.parametrize("name", KNOWN)
def test_prompts_of_unequal_length(name: str) -> None:
    case = make(name, torch.float32, 4)
    mask = torch.ones(2, 9)
    mask[0, 4:] = 0
    network, prepared = planned(case.unet), case.unet.prepare(case.cond._replace(mask=mask))
    torch.testing.assert_close(
        network(case.x, case.t, prepared), case.unet(case.x, case.t, prepared), atol=2e-5, rtol=0
    )


@pytest.mark.parametrize("config", [WIDE, WIDE_IF], ids=["separate", "joint"])
@pytest.mark.parametrize("size", [(18, 24), (34, 22)], ids=str)
def test_wide_networks(config: dict[str, Any], size: tuple[int, int]) -> None:
    unet, x, cond = wide(config, size=size)
    exact = unet.double()(x.double(), torch.tensor(500), cond._replace(text=cond.text.double()))
    unet.float()
    prepared = unet.prepare(cond)
    ours, theirs = (network(x, torch.tensor(500), prepared) for network in (planned(unet), unet))
    assert closeness(ours, exact) < max(2 * closeness(theirs, exact), 2e-6)


@pytest.mark.skipif(not BFLOAT16, reason="the processor has no products of bfloat16")
@pytest.mark.parametrize("config", [WIDE, WIDE_IF], ids=["separate", "joint"])
def test_bfloat16_errs_no_more_than_torch(config: dict[str, Any]) -> None:
    unet, x, cond = wide(config)
    exact = unet(x, torch.tensor(500), cond)
    unet.bfloat16()
    prepared = unet.prepare(cond)
    ours, theirs = (network(x.bfloat16(), torch.tensor(500), prepared) for network in (planned(unet), unet))
    assert closeness(ours, exact) < 1.5 * closeness(theirs, exact)


def test_a_row_does_not_depend_on_the_batch() -> None:
    unet, x, cond = wide(rows=3)
    network = planned(unet)
    prepared = network.prepare(cond)
    together = network(x, torch.tensor(500), prepared)
    for row in range(3):
        own = prepared._replace(text=tuple((k[row : row + 1], v[row : row + 1]) for k, v in prepared.text))
        assert torch.equal(network(x[row : row + 1], torch.tensor(500), own)[0], together[row])


def test_threads_do_not_change_a_bit() -> None:
    unet, x, cond = wide()
    network = planned(unet)
    prepared, threads = network.prepare(cond), torch.get_num_threads()
    expected = network(x, torch.tensor(500), prepared)
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            assert torch.equal(network(x, torch.tensor(500), prepared), expected)
    finally:
        torch.set_num_threads(threads)


def test_calls_leave_nothing_behind() -> None:
    unet, x, cond = wide()
    network = planned(unet)
    one, other = network.prepare(cond), network.prepare(cond._replace(text=cond.text + 1, mask=torch.ones(2, 7)))
    first = network(x, torch.tensor(500), one)
    kept = first.clone()
    second = network(x[:, :, :16, :16], torch.tensor(10), other)
    assert second.shape[2:] == (16, 16)
    assert not torch.equal(network(x, torch.tensor(500), other), first)
    assert torch.equal(network(x, torch.tensor(500), one), first)
    assert torch.equal(first, kept)


def test_many_calls_at_once() -> None:
    unet, x, cond = wide()
    network = planned(unet)
    prepared = [network.prepare(cond._replace(text=cond.text * scale)) for scale in (0.5, 1.0, 2.0)]
    expected = [network(x, torch.tensor(500), each) for each in prepared]

    def run(index: int) -> Tensor:
        with torch.no_grad():
            made: Tensor = network(x, torch.tensor(500), prepared[index % 3])
        return made

    with ThreadPoolExecutor(4) as pool:
        for index, made in enumerate(pool.map(run, range(24))):
            assert torch.equal(made, expected[index % 3])


def edits(tokens: int) -> dict[str, AttentionEdit]:
    """Of a batch of two rows, the second borrowing from the first."""
    source = torch.tensor([0, 0])
    transfer, keep = torch.rand(2, tokens, tokens), torch.rand(2, tokens)
    return {
        "text": AttentionEdit(tokens, source, transfer, keep),
        "pixels": AttentionEdit(tokens, pixel_edit=PixelEdit(source, "map")),
        "content": AttentionEdit(tokens, pixel_edit=PixelEdit(source, "content")),
        "perturbed": AttentionEdit(tokens, perturbed=RowsIn(torch.tensor([False, True]))),
        "features": AttentionEdit(tokens, features=RowsIn(source)),
    }


@pytest.mark.parametrize("config", [WIDE, WIDE_IF], ids=["separate", "joint"])
@pytest.mark.parametrize("name", edits(1))
def test_edits(name: str, config: dict[str, Any]) -> None:
    unet, x, cond = wide(config)
    torch.manual_seed(2)
    network, prepared = planned(unet), unet.prepare(cond)
    edited = prepared._replace(edit=edits(7)[name])
    out, expected = network(x, torch.tensor(500), edited), unet(x, torch.tensor(500), edited)
    torch.testing.assert_close(out, expected, atol=3e-5, rtol=0)
    assert (out - network(x, torch.tensor(500), prepared)).abs().max() > 1e-2  # the edit is heard


def captured(network: Any, x: Tensor, prepared: Prepared) -> tuple[Tensor, Heat]:
    heat = Heat()
    probe = torch.eye(7).expand(2, 7, 7).contiguous()
    out = network(x, torch.tensor(500), prepared._replace(edit=AttentionEdit(7).capturing(probe, heat)))
    return out, heat


@pytest.mark.parametrize("config", [WIDE, WIDE_IF], ids=["separate", "joint"])
def test_captures(config: dict[str, Any]) -> None:
    unet, x, cond = wide(config)
    network, prepared = planned(unet), unet.prepare(cond)
    (out, heat), (_, expected) = captured(network, x, prepared), captured(unet, x, prepared)
    assert torch.equal(out, network(x, torch.tensor(500), prepared))  # capturing changes no bit
    assert heat.counts == expected.counts
    for pixels, sums in expected.sums.items():
        torch.testing.assert_close(heat.sums[pixels], sums, atol=2e-5, rtol=0)


@pytest.mark.parametrize("name", ["sd1", "sdxl", "if", "if_super"])
def test_the_outermost_level_alone(name: str) -> None:
    case = make(name, torch.float32, 4)
    network, prepared = planned(case.unet), case.unet.prepare(case.cond)
    (ours, deep), (theirs, expected) = (of.reusing(case.x, case.t, prepared, None) for of in (network, case.unet))
    assert torch.equal(ours, network(case.x, case.t, prepared))
    torch.testing.assert_close(deep, expected, atol=2e-5, rtol=0)
    later, t = case.x + 0.1, case.t - 10
    (ours, kept), (theirs, _) = (of.reusing(later, t, prepared, expected) for of in (network, case.unet))
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=0)
    assert torch.equal(kept, expected)


AUTOENCODER: dict[str, Any] = {
    "in_channels": 3,
    "out_channels": 3,
    "block_out_channels": (64, 96),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "latent_channels": 4,
    "norm_num_groups": 16,
    "sample_size": 32,
}


@pytest.mark.parametrize("attends", [True, False])
def test_autoencoders(attends: bool) -> None:
    torch.manual_seed(3)
    config = AutoencoderConfig.from_dict(AUTOENCODER | {"mid_block_add_attention": attends})
    module = Autoencoder(config).eval()
    randomise(module, 4)
    codec = planned_codec(module)
    assert isinstance(codec, PlannedAutoencoder)
    image, latents, noise = torch.rand(2, 3, 36, 44) * 2 - 1, torch.randn(2, 4, 18, 22), torch.randn(2, 4, 18, 22)
    torch.testing.assert_close(codec.decode(latents), module.decode(latents), atol=2e-5, rtol=0)
    torch.testing.assert_close(codec.encode(image, noise), module.encode(image, noise), atol=2e-5, rtol=0)
    sliced = codec.decode(latents, slicing=True)
    assert torch.equal(sliced, codec.decode(latents))
    tiled = {"tiling": True, "slicing": True}
    torch.testing.assert_close(codec.decode(latents, **tiled), module.decode(latents, **tiled), atol=2e-5, rtol=0)
    assert torch.equal(codec.scaled(latents), module.scaled(latents))


def test_gradients_go_through_the_module() -> None:
    unet, x, cond = wide()
    network = planned(unet)
    with torch.enable_grad():
        given = x.clone().requires_grad_()
        network(given, torch.tensor(500), network.prepare(cond)).sum().backward()
    assert given.grad is not None
    assert bool(given.grad.isfinite().all())


def test_what_is_not_planned_runs_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    mish = make("corners", torch.float32, 4).unet
    assert "mish" in str(why_not(mish))
    assert planned(mish) is mish
    unet = wide()[0]
    assert why_not(unet) is None
    assert "float64" in str(why_not(unet.double()))
    monkeypatch.setattr(native, "core", lambda: None)
    assert planned(unet.float()) is unet


def test_wrong_input_is_refused_as_by_the_module() -> None:
    unet, x, cond = wide()
    network = planned(unet)
    with pytest.raises(ValueError, match=r"x .*\(2, 3, 18, 24\)"):
        network(x[:, :3], torch.tensor(500), network.prepare(cond))


def test_loaded_networks_are_planned() -> None:
    for stage in pydiff.load().cascade.stages:
        assert isinstance(stage.unet, PlannedUNet)
        assert isinstance(stage.unet, nn.Module)  # so that torch's hooks work on it
