"""Networks whose calls are recorded and replayed, with a recorder that does the same work again."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor

import pydiff
from pydiff.models.unet2d import UNet2D, UNet2DConfig
from pydiff.nn.cond import Cond
from pydiff.runtime.calls import Call
from pydiff.runtime.graphed import MOST_GRAPHS, Graphed, GraphedUNet, graphed, why_not
from pydiff.step_cache import Reusing
from tests.models.test_unet import CONFIGS, Case, make, randomise
from tests.runtime.test_planned import edits


@pytest.fixture(autouse=True)
def _no_gradients() -> Any:
    with torch.no_grad():
        yield


class Rerun:
    """Records by keeping what is run: a replay runs it again, into the memory of the first results."""

    def __init__(self, pause: Callable[[], None] = lambda: None) -> None:
        self.recorded = self.replayed = 0
        self.lock, self.pause = threading.Lock(), pause

    @contextmanager
    def turn(self) -> Iterator[None]:
        with self.lock:
            yield

    def aside(self) -> AbstractContextManager[None]:
        return nullcontext()

    def record(self, run: Callable[[], tuple[Tensor, ...]]) -> tuple[Callable[[], None], tuple[Tensor, ...]]:
        assert not torch.is_inference_mode_enabled()  # what is recorded outlives the call
        self.recorded += 1
        places = run()

        def replay() -> None:
            self.replayed += 1
            with torch.inference_mode(False), torch.no_grad():  # as it was recorded
                for place, made in zip(places, run(), strict=True):
                    place.copy_(made)
            self.pause()

        return replay, places


def over(case: Case) -> tuple[GraphedUNet, Rerun]:
    recorder = Rerun()
    return GraphedUNet(case.unet, recorder), recorder


def masked(cond: Cond) -> Cond:
    mask = torch.ones(2, 9)
    mask[0, 4:] = 0
    return cond._replace(mask=mask)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_family_equals_its_module(name: str) -> None:
    case = make(name, torch.float32, 4)
    network, recorder = over(case)
    for cond in (case.cond, masked(case.cond), case.cond):
        prepared = network.prepare(cond)
        for step in range(3):
            x, t = case.x + step, case.t - 100 * step
            assert torch.equal(network(x, t, prepared), case.unet(x, t, prepared))
    assert (recorder.recorded, recorder.replayed) == (2, 9)  # with a mask and without
    assert torch.equal(network(case.x, case.t, case.cond), case.unet(case.x, case.t, case.cond))


def test_shapes_types_and_layouts_have_graphs_of_their_own() -> None:
    case = make("sd1", torch.float32, 4)
    network, recorder = over(case)
    prepared = network.prepare(case.cond)
    short = network.prepare(case.cond._replace(text=case.cond.text[:, :5]))  # type: ignore[index]
    one = network.prepare(Cond(case.cond.text[:1]))  # type: ignore[index]
    calls = [
        (case.x, case.t, prepared),
        (case.x[:, :, :16], case.t, prepared),
        (case.x.contiguous(memory_format=torch.channels_last), case.t, prepared),
        (case.x, case.t, short),
        (case.x[:1], torch.tensor(500), one),
        (case.x, torch.tensor(500.0), prepared),
        (case.x.bfloat16(), case.t, prepared),
    ]
    for _ in range(2):
        for call in calls:
            made, expected = network(*call), case.unet(*call)
            assert torch.equal(made, expected)
            assert (made.dtype, made.stride()) == (expected.dtype, expected.stride())
    assert recorder.recorded == len(calls)


def test_only_so_many_graphs_are_kept() -> None:
    case = make("sd1", torch.float32, 4)
    network, recorder = over(case)
    prepared = network.prepare(case.cond)
    for height in range(8, 8 + 2 * (MOST_GRAPHS + 1), 2):
        network(case.x[:, :, :height], case.t, prepared)
    assert len(network._graphs.idle) == MOST_GRAPHS
    network(case.x[:, :, :8], case.t, prepared)  # the first, which is gone
    assert recorder.recorded == MOST_GRAPHS + 2


def test_what_stays_is_copied_once(monkeypatch: pytest.MonkeyPatch) -> None:
    case = make("sd1", torch.float32, 4)
    network, _ = over(case)
    one, other = network.prepare(masked(case.cond)), network.prepare(masked(case.cond))
    network(case.x, case.t, one)
    buffers = network._graphs.idle[0][1].buffers
    starts = [None if buffer is None else buffer.data_ptr() for buffer in buffers]
    copied: list[int] = []
    copy = Tensor.copy_

    def counting(self: Tensor, *given: Any) -> Tensor:
        copied.append(self.data_ptr())
        return copy(self, *given)

    monkeypatch.setattr(Tensor, "copy_", counting)
    for prepared, count in ((one, 2), (one._replace(edit=None), 2), (other, len(buffers) - 2), (other, 2)):
        copied.clear()
        network(case.x, case.t, prepared)
        into = [start for start in copied if start in starts]
        assert len(into) == count  # x and t; two of the parts, deep and emb, are not there
    assert [None if buffer is None else buffer.data_ptr() for buffer in buffers] == starts


@pytest.mark.parametrize("name", ["sd1", "sdxl", "if"])
def test_the_outermost_level_alone(name: str) -> None:
    case = make(name, torch.float32, 4)
    network, recorder = over(case)
    prepared = network.prepare(case.cond)
    for shift in (0.0, 1.0):
        x = case.x + shift
        (ours, deep), (theirs, expected) = (of.reusing(x, case.t, prepared, None) for of in (network, case.unet))
        assert torch.equal(ours, theirs)
        assert torch.equal(deep, expected)
        for later in (x + 0.1, x + 0.2):
            (ours, kept), (theirs, _) = (of.reusing(later, case.t - 10, prepared, deep) for of in (network, case.unet))
            assert torch.equal(ours, theirs)
            assert kept is deep
    assert torch.equal(network(case.x, case.t, prepared), case.unet(case.x, case.t, prepared))
    assert recorder.recorded == 2  # a whole call is one, whether what came up is asked for or not


def test_networks_of_pixels() -> None:
    torch.manual_seed(0)
    kinds = {"down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D")}
    options = {"in_channels": 3, "out_channels": 3, "block_out_channels": (16, 32), "norm_num_groups": 8}
    unet = UNet2D(UNet2DConfig.from_dict({**kinds, **options, "num_class_embeds": 4})).eval()
    randomise(unet, 4)
    recorder = Rerun()
    network, x = Graphed(unet, recorder), torch.randn(2, 3, 16, 16)
    assert not isinstance(network, Reusing)
    for labels in (torch.tensor([0, 3]), torch.tensor([1, 1])):
        prepared = network.prepare(Cond(None, labels=labels))
        assert torch.equal(network(x, torch.tensor(500), prepared), unet(x, torch.tensor(500), prepared))
    assert recorder.recorded == 1
    with pytest.raises(ValueError, match=r"x .*\(2, 2, 16, 16\)"):
        network(x[:, :2], torch.tensor(500), prepared)


def test_calls_leave_nothing_behind() -> None:
    case = make("sd1", torch.float32, 4)
    network, _ = over(case)
    prepared = network.prepare(case.cond)
    first = network(case.x, case.t, prepared)
    kept = first.clone()
    assert not torch.equal(network(case.x + 1, case.t, prepared), first)
    assert torch.equal(first, kept)


def test_inference_mode_and_none_take_turns() -> None:
    case = make("sd1", torch.float32, 4)
    network, recorder = over(case)
    with torch.inference_mode():
        prepared = network.prepare(case.cond)
        made = network(case.x, case.t, prepared)
    assert torch.equal(network(case.x, case.t, prepared), made)
    assert recorder.recorded == 1


def test_many_calls_at_once() -> None:
    """Other calls come to their turn while one's result is still in the buffers."""
    case = make("if", torch.float32, 4)
    recorder = Rerun(pause=lambda: threading.Event().wait(0.002) and None)
    network = GraphedUNet(case.unet, recorder)
    kinds = [(case.x[:, :, : 8 * (1 + index % 2)], network.prepare(scaled(case.cond, index))) for index in range(3)]
    expected = [case.unet(x, case.t, prepared) for x, prepared in kinds]

    def run(index: int) -> Tensor:
        with torch.no_grad():
            x, prepared = kinds[index % 3]
            made: Tensor = network(x, case.t, prepared)
        return made

    with ThreadPoolExecutor(4) as pool:
        for index, made in enumerate(pool.map(run, range(24))):
            assert torch.equal(made, expected[index % 3])
    assert recorder.recorded == 2


def scaled(cond: Cond, index: int) -> Cond:
    assert cond.text is not None
    return cond._replace(text=cond.text * (1 + index))


@pytest.mark.parametrize("name", edits(1))
def test_edits_are_the_modules(name: str) -> None:
    case = make("sd1", torch.float32, 4)
    network, recorder = over(case)
    prepared = network.prepare(case.cond)._replace(edit=edits(9)[name])
    assert torch.equal(network(case.x, case.t, prepared), case.unet(case.x, case.t, prepared))
    assert recorder.recorded == 0


def test_merged_pixels_are_the_modules() -> None:
    case = make("sd1", torch.float32, 4)
    network, recorder = over(case)
    prepared = network.prepare(case.cond)._replace(merge=0.5)
    assert torch.equal(network(case.x, case.t, prepared), case.unet(case.x, case.t, prepared))
    assert recorder.recorded == 0


def test_gradients_and_autocast_are_the_modules() -> None:
    case = make("sd1", torch.float32, 4)
    network, recorder = over(case)
    with torch.enable_grad():
        given = case.x.clone().requires_grad_()
        network(given, case.t, network.prepare(case.cond)).sum().backward()
    assert given.grad is not None
    with torch.autocast("cpu", torch.bfloat16):
        network(case.x, case.t, network.prepare(case.cond))
    assert recorder.recorded == 0


def test_wrong_input_is_refused_as_by_the_module() -> None:
    case = make("sd1", torch.float32, 4)
    network, recorder = over(case)
    with pytest.raises(ValueError, match=r"x .*\(2, 3, 24, 16\)"):
        network(case.x[:, :3], case.t, network.prepare(case.cond))
    assert recorder.recorded == 0


def test_a_call_that_cannot_be_recorded_is_warned_of_once() -> None:
    case = make("sd1", torch.float32, 4)

    class Refuses(Rerun):
        def record(self, run: Any) -> Any:
            raise RuntimeError("operation not permitted when stream is capturing")

    network = GraphedUNet(case.unet, Refuses())
    prepared = network.prepare(case.cond)
    with pytest.warns(UserWarning, match="without a CUDA graph, more slowly: operation not permitted") as warned:
        made = network(case.x, case.t, prepared)
    assert len(warned) == 1
    assert torch.equal(made, case.unet(case.x, case.t, prepared))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(network(case.x[:, :, :8], case.t, prepared), case.unet(case.x[:, :, :8], case.t, prepared))
        deep = network.reusing(case.x, case.t, prepared, None)[1]
        assert torch.equal(deep, case.unet.reusing(case.x, case.t, prepared, None)[1])


def test_an_error_of_a_replay_is_not_one_of_recording() -> None:
    case = make("sd1", torch.float32, 4)

    def fail() -> None:
        raise RuntimeError("CUDA error: device-side assert triggered")

    network = GraphedUNet(case.unet, Rerun(pause=fail))
    for _ in range(2):
        with pytest.raises(RuntimeError, match="device-side assert"):
            network(case.x, case.t, network.prepare(case.cond))
    assert network.refused is None


def test_networks_on_the_cpu_are_not_graphed() -> None:
    unet = make("sd1", torch.float32, 4).unet
    assert why_not(unet) == "its weights are on cpu; graphs are CUDA's"
    assert graphed(unet) is unet
    assert why_not(pydiff.load("pydiff-palette").cascade.stages[0].unet) is not None
    assert "int" in str(why_not(3))


@pytest.mark.parametrize("name", CONFIGS)
def test_no_value_is_read_in_a_call(name: str) -> None:
    """That would wait for a GPU, and end the recording; tensors of the meta device have no values."""
    case = make(name, torch.float32, 4)
    parts = Call(case.x, case.t, case.unet.prepare(masked(case.cond))).parts()
    call = Call.of([part if part is None else part.to("meta") for part in parts])
    unet = case.unet.to("meta")
    made, deep = unet.reusing(*call)
    assert made.shape == (len(case.x), unet.config.out_channels, *case.x.shape[2:])
    assert unet.reusing(*call[:3], deep)[0].shape == made.shape
