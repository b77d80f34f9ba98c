"""What an edit does to attention, against maps that are formed here, in float64: in named rows and layers alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from pydiff.nn.attend import attend_pixels, attend_text
from pydiff.nn.edit import AttentionEdit, Heat, Layers, MapEdit, PixelEdit, RowsIn
from pydiff.ops.attention import attention

BATCH, HEADS, N, TEXT, DIM = 5, 3, 12, 7, 4
LAYER, OTHER = "up_blocks.1.attentions.0", "mid_block.attentions.0"
HERE = Layers(frozenset([LAYER]))
SOURCE = torch.tensor([0, 0, 2, 2, 1])  # rows 0 and 2 are left alone
LEFT_ALONE = [0, 2]
PERTURBED = torch.tensor([False, True, False, False, True])


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """As it is, unedited."""
    return attention(q, k, v, bias=bias)


@pytest.fixture
def draw() -> Any:
    generator = torch.Generator().manual_seed(0)
    return lambda *size: torch.randn(size, generator=generator, dtype=torch.float64)


@pytest.fixture
def pixels(draw: Any) -> tuple[Tensor, Tensor, Tensor]:
    return 3 * draw(BATCH, HEADS, N, DIM), 3 * draw(BATCH, HEADS, N, DIM), draw(BATCH, HEADS, N, DIM)


@pytest.fixture
def words(draw: Any) -> tuple[Tensor, Tensor]:
    return 3 * draw(BATCH, HEADS, TEXT, DIM), draw(BATCH, HEADS, TEXT, DIM)


@pytest.fixture
def bias(draw: Any) -> Tensor:
    return torch.where(draw(BATCH, 1, 1, TEXT) < 0.5, 0.0, -10000.0).double()


@pytest.fixture
def joint(pixels: Any, words: Any) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = pixels
    return q, torch.cat([words[0], k], dim=2), torch.cat([words[1], v], dim=2)


def maps_of(q: Tensor, k: Tensor, bias: Tensor | None = None) -> Tensor:
    scores = torch.einsum("bhnd,bhmd->bhnm", q, k) / DIM**0.5
    if bias is not None:
        scores[..., : bias.shape[3]] += bias
    return scores.exp() / scores.exp().sum(-1, keepdim=True)


def tables(draw: Any) -> dict[str, Tensor]:
    return {"source": SOURCE, "transfer": draw(BATCH, TEXT, TEXT).abs(), "keep": draw(BATCH, TEXT).abs()}


def edited_maps(maps: Tensor, table: dict[str, Tensor], pixels: str = "rescale") -> Tensor:
    """Prompt-to-Prompt of formed maps, in the rows that have another source."""
    made = maps.clone()
    for row, source in enumerate(SOURCE.tolist()):
        if source != row:
            words = maps[source][..., :TEXT] @ table["transfer"][row] + maps[row][..., :TEXT] * table["keep"][row]
            rest = maps[row][..., TEXT:]
            if pixels == "rescale" and rest.shape[-1]:
                rest = rest * (1 - words.sum(-1, keepdim=True)) / rest.sum(-1, keepdim=True)
            made[row] = torch.cat([words, rest], dim=-1)
    return made


def same(ours: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(ours, expected, atol=1e-10, rtol=0)


def check_others(ours: Tensor, plain: Tensor, named: list[int]) -> None:
    """Rows that are not named are unchanged, named ones are not."""
    for row in range(BATCH):
        change = (ours[row] - plain[row]).abs().max()
        assert change > 1e-3 if row in named else change < 1e-14


EDITED = [row for row in range(BATCH) if row not in LEFT_ALONE]


@pytest.mark.parametrize("borrow", ["map", "content"])
def test_pixels_borrow_in_separate_attention(pixels: Any, borrow: str) -> None:
    q, k, v = pixels
    edit = AttentionEdit(TEXT, pixel_edit=PixelEdit(SOURCE, borrow, HERE))
    ours = attend_pixels(q, k, v, edit, LAYER)
    if borrow == "map":
        same(ours, maps_of(q[SOURCE], k[SOURCE]) @ v)
    else:
        same(ours, maps_of(q, k[SOURCE]) @ v[SOURCE])
    check_others(ours, attend(q, k, v), EDITED)
    assert torch.equal(attend_pixels(q, k, v, edit, OTHER), attend(q, k, v))


def test_pixels_borrow_content_in_joint_attention(joint: Any, bias: Tensor) -> None:
    q, k, v = joint
    edit = AttentionEdit(TEXT, pixel_edit=PixelEdit(SOURCE, "content", HERE))
    ours = attend_text(q, k, v, bias, edit, LAYER)
    for row, source in enumerate(SOURCE.tolist()):  # its own words, the source's pixels
        keys = torch.cat([k[row, :, :TEXT], k[source, :, TEXT:]], dim=1)
        values = torch.cat([v[row, :, :TEXT], v[source, :, TEXT:]], dim=1)
        same(ours[row], (maps_of(q[row, None], keys[None], bias[row, None]) @ values)[0])
    check_others(ours, attend(q, k, v, bias), EDITED)
    same(attend_text(q, k, v, bias, edit, OTHER), attend(q, k, v, bias))


@pytest.mark.parametrize("edits_text", [False, True])
def test_pixels_borrow_maps_in_joint_attention(draw: Any, joint: Any, bias: Tensor, edits_text: bool) -> None:
    q, k, v = joint
    table = tables(draw)
    edit = AttentionEdit(TEXT, **(table if edits_text else {}), pixel_edit=PixelEdit(SOURCE, "map", HERE))
    ours = attend_text(q, k, v, bias, edit, LAYER)
    maps = maps_of(q, k, bias)
    expected = edited_maps(maps, table, "keep") if edits_text else maps
    same(ours, torch.cat([expected[..., :TEXT], maps[SOURCE][..., TEXT:]], dim=-1) @ v)
    check_others(ours, attend(q, k, v, bias), EDITED)


def test_borrowing_pixels_leaves_attention_to_text_alone(pixels: Any, words: Any, bias: Tensor) -> None:
    for borrow in ("map", "content"):
        edit = AttentionEdit(TEXT, pixel_edit=PixelEdit(SOURCE, borrow))
        same(attend_text(pixels[0], *words, bias, edit, LAYER), attend(pixels[0], *words, bias))


def test_only_small_layers_borrow(pixels: Any) -> None:
    for limit, borrows in ((N, True), (N - 1, False)):
        edit = AttentionEdit(TEXT, pixel_edit=PixelEdit(SOURCE, "map", Layers(max_pixels=limit)))
        assert torch.equal(attend_pixels(*pixels, edit, LAYER), attend(*pixels)) is not borrows


def test_a_perturbed_pixel_attends_to_itself_alone(pixels: Any) -> None:
    q, k, v = pixels
    edit = AttentionEdit(TEXT, perturbed=RowsIn(PERTURBED, HERE))
    ours, plain = attend_pixels(q, k, v, edit, LAYER), attend(q, k, v)
    assert torch.equal(ours[PERTURBED], v[PERTURBED])
    assert torch.equal(ours[~PERTURBED], plain[~PERTURBED])
    assert torch.equal(attend_pixels(q, k, v, edit, OTHER), plain)


@pytest.mark.parametrize("how", ["alone", "edited text", "borrowed content", "function"])
def test_what_falls_on_pixels_falls_on_the_perturbed_pixel_itself(
    draw: Any, joint: Any, bias: Tensor, how: str
) -> None:
    q, k, v = joint
    table, maps = tables(draw), maps_of(q, k, bias)
    edit, others = AttentionEdit(TEXT, perturbed=RowsIn(PERTURBED, HERE)), maps @ v
    if how == "edited text":
        edit, maps = edit._replace(**table), edited_maps(maps, table)
        others = maps @ v
    elif how == "function":
        edit, maps = edit._replace(map_edit=MapEdit(lambda source, own, at: source, SOURCE, 0.0)), maps[SOURCE]
        others = maps @ v
    elif how == "borrowed content":
        edit = edit._replace(pixel_edit=PixelEdit(SOURCE, "content", HERE))
        others = attend_text(q, k, v, bias, edit._replace(perturbed=None), LAYER)
        maps = maps_of(q, torch.cat([k[:, :, :TEXT], k[SOURCE, :, TEXT:]], dim=2), bias)
    ours = attend_text(q, k, v, bias, edit, LAYER)
    itself = maps[..., :TEXT] @ v[:, :, :TEXT] + maps[..., TEXT:].sum(-1, keepdim=True) * v[:, :, TEXT:]
    same(ours, torch.where(PERTURBED[:, None, None, None], itself, others))


def test_perturbing_leaves_attention_to_text_alone(pixels: Any, words: Any, bias: Tensor) -> None:
    edit = AttentionEdit(TEXT, perturbed=RowsIn(PERTURBED))
    same(attend_text(pixels[0], *words, bias, edit, LAYER), attend(pixels[0], *words, bias))


def mixed(source: Tensor, own: Tensor, progress: float) -> Tensor:
    """Not linear, and it writes over what it is given."""
    made = (source**2 + own) * (1 + progress)
    source.zero_()
    own.zero_()
    return made


@pytest.mark.parametrize("family", ["separate", "text", "joint"])
def test_a_function_of_maps(pixels: Any, words: Any, joint: Any, bias: Tensor, family: str) -> None:
    q, k, v = {"separate": pixels, "text": (pixels[0], *words), "joint": joint}[family]
    given = None if family == "separate" else bias
    maps = maps_of(q, k, given)
    for progress in (0.0, 0.75):
        edit = AttentionEdit(TEXT, map_edit=MapEdit(mixed, SOURCE, progress, HERE))
        run = (lambda e, name: attend_pixels(q, k, v, e, name)) if given is None else (
            lambda e, name: attend_text(q, k, v, given, e, name)
        )  # fmt: skip
        ours = run(edit, LAYER)
        expected = maps.clone()
        for row in EDITED:
            expected[row] = (maps[SOURCE[row]] ** 2 + maps[row]) * (1 + progress)
        same(ours, expected @ v)
        check_others(ours, maps @ v, EDITED)
        same(run(edit, OTHER), maps @ v)


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (None, "returned NoneType in up_blocks.1.attentions.0; expected a map of floats \\(3, 12, 7\\)"),
        (torch.zeros(3, 12, 6), "returned torch.float32 \\(3, 12, 6\\) in up_blocks"),
        (torch.zeros(3, 12, 7, dtype=torch.long), "returned torch.int64 \\(3, 12, 7\\) in"),
        (torch.full((3, 12, 7), torch.nan), "returned NaN or infinity in up_blocks.1.attentions.0, a map"),
        (torch.full((3, 12, 7), torch.inf), "returned NaN or infinity"),
    ],
)
def test_what_is_no_map(pixels: Any, words: Any, result: Any, message: str) -> None:
    edit = AttentionEdit(TEXT, map_edit=MapEdit(lambda *_: result, SOURCE, 0.0))
    with pytest.raises(ValueError, match=message):
        attend_text(pixels[0], *words, None, edit, LAYER)


@pytest.mark.parametrize("edited", ["plain", "tables", "function"])
@pytest.mark.parametrize("family", ["text", "joint"])
def test_several_captures_and_heads_apart(
    draw: Any, pixels: Any, words: Any, joint: Any, bias: Tensor, family: str, edited: str
) -> None:
    q, k, v = joint if family == "joint" else (pixels[0], *words)
    table, maps = tables(draw), maps_of(q, k, bias)
    edit = AttentionEdit(TEXT)
    if edited == "tables":
        edit, maps = AttentionEdit(TEXT, **table), edited_maps(maps, table)
    elif edited == "function":
        edit, maps = AttentionEdit(TEXT, map_edit=MapEdit(lambda s, o, at: s * o, SOURCE, 0.5)), maps.clone()
        for row in EDITED:
            maps[row] = maps_of(q, k, bias)[SOURCE[row]] * maps[row]
    probes = [draw(BATCH, TEXT, columns) for columns in (1, 3, TEXT)]
    for kept in ([2], [0], [0, 1, 2]):  # one with heads apart, one without, all together
        heats = [Heat(heads=index == 2) for index in range(3)]
        capturing = edit
        for index in kept:
            capturing = capturing.capturing(probes[index], heats[index])
        ours = attend_text(q, k, v, bias, capturing, LAYER)
        same(ours, maps @ v)
        for index in kept:
            seen = maps[..., :TEXT] @ probes[index][:, None]
            same(heats[index].mean(N), seen if index == 2 else seen.mean(1))
            attend_text(q, k, v, bias, capturing, LAYER)
            assert heats[index].counts[N] >= 2
            same(heats[index].mean(N), seen if index == 2 else seen.mean(1))


def test_only_named_layers_and_sizes_are_captured(pixels: Any, words: Any) -> None:
    for heat, name, taken in (
        (Heat(HERE), LAYER, True),
        (Heat(HERE), OTHER, False),
        (Heat(sizes=frozenset([N])), OTHER, True),
        (Heat(sizes=frozenset([N + 1])), OTHER, False),
    ):
        probe = torch.eye(TEXT, dtype=torch.float64).expand(BATCH, -1, -1)
        attend_text(pixels[0], *words, None, AttentionEdit(TEXT).capturing(probe, heat), name)
        assert (N in heat.sums) is taken
