"""T5 encoders as DeepFloyd IF's folders hold them: a sentencepiece model, half precision, shards, cleaned captions."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import torch
from diffusers import IFPipeline
from safetensors.torch import load_file, save_file
from transformers import T5Config, T5EncoderModel, T5Tokenizer

from pydiff import _optional
from pydiff.text.prompts import PromptEncoder
from pydiff.text.torch_networks import load_prompt_encoder, load_text_encoder

PROMPTS = [
    "",
    "a Red cat",
    "  the  cat, left of the dog's blue ﬁsh!  ",
    "<b>A&amp;B</b> http://a.com/x 星 #12345 “cat”",
]
CORPUS = ["a red cat", "the dog left of the cat", "blue fish, red fish!", "one two three", "it's a dog's life"] * 20


class Peer:
    """diffusers' IFPipeline as far as its encode_prompt goes."""

    encode_prompt = IFPipeline.encode_prompt
    _text_preprocessing = IFPipeline._text_preprocessing
    _clean_caption = IFPipeline._clean_caption
    bad_punct_regex = IFPipeline.bad_punct_regex

    def __init__(self, folder: Path, dtype: torch.dtype = torch.float32, variant: str | None = None) -> None:
        self.tokenizer = T5Tokenizer.from_pretrained(folder / "tokenizer")
        self.text_encoder = T5EncoderModel.from_pretrained(folder / "text_encoder", dtype=dtype, variant=variant)

    @torch.no_grad()
    def states(self, **options: Any) -> torch.Tensor:
        return self.encode_prompt(PROMPTS, False, device="cpu", **options)[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("if")
    (folder / "tokenizer").mkdir()
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS), model_writer=written, vocab_size=60, hard_vocab_limit=False,
        pad_id=0, eos_id=1, unk_id=2, bos_id=-1, minloglevel=9,
    )  # fmt: skip
    (folder / "tokenizer" / "spiece.model").write_bytes(written.getvalue())
    settings = {"model_max_length": 512, "extra_ids": 100, "tokenizer_class": "T5Tokenizer"}
    (folder / "tokenizer" / "tokenizer_config.json").write_text(json.dumps(settings))
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=192, d_model=32, d_kv=8, d_ff=48, num_layers=3, num_heads=4, feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
    )  # fmt: skip
    network = T5EncoderModel(config).half().float()
    for name, parameter in network.named_parameters():
        if name.endswith("SelfAttention.q.weight"):
            parameter.data.mul_(4)
    network.save_pretrained(folder / "text_encoder")
    index = {"_class_name": "IFPipeline", "text_encoder": ["transformers", "T5EncoderModel"]}
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def test_sentencepiece_models(folder: Path) -> None:
    ours = load_text_encoder(folder)
    assert isinstance(ours, PromptEncoder)
    assert torch.allclose(ours.encode(PROMPTS).states, Peer(folder).states(), atol=1e-4)
    model = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer" / "spiece.model"))
    for prompt in PROMPTS:
        (read,) = ours.tokenizers[0].read([prompt.lower().strip()], weighting=False)
        assert list(read.ids) == model.encode(prompt.lower().strip())


def test_clean_captions(folder: Path) -> None:
    ours = load_prompt_encoder(folder)
    cleaned = ours.encode(PROMPTS, clean_caption=True).states
    assert torch.allclose(cleaned, Peer(folder).states(clean_caption=True), atol=1e-4)
    assert not torch.allclose(cleaned[3], ours.encode(PROMPTS).states[3], atol=1e-2)
    with pytest.raises(ValueError, match="is not Unicode"):
        ours.check(["a \ud800"], clean_caption=True)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(folder: Path, dtype: torch.dtype) -> None:
    """In float16 the feed-forwards' last projections stay in float32."""
    expected, eps = Peer(folder, dtype), 32 * torch.finfo(dtype).eps
    opened = load_prompt_encoder(folder, dtype=dtype)
    for ours in (opened, load_prompt_encoder(folder).to(dtype=dtype)):
        kept = {name: parameter.dtype for name, parameter in ours.runners[0].network.named_parameters()}
        theirs = {name: parameter.dtype for name, parameter in expected.text_encoder.named_parameters()}
        assert kept == {name: kind for name, kind in theirs.items() if name in kept}
        states = ours.encode(PROMPTS).states
        assert states.dtype == dtype
        torch.testing.assert_close(states, expected.states(), atol=eps, rtol=eps)
    assert (torch.float32 in kept.values()) == (dtype == torch.float16)
    wide = load_prompt_encoder(folder).encode(PROMPTS).states
    assert (states.float() - wide).abs().max() < eps


def test_shards_and_variants(folder: Path, tmp_path: Path) -> None:
    expected = load_prompt_encoder(folder).encode(PROMPTS).states
    network = T5EncoderModel.from_pretrained(folder / "text_encoder")
    network.save_pretrained(tmp_path / "text_encoder", max_shard_size="20KB", variant="fp16")
    assert len(list((tmp_path / "text_encoder").glob("model.fp16-*.safetensors"))) > 1
    shutil.copytree(folder / "tokenizer", tmp_path / "tokenizer")
    made = load_prompt_encoder(tmp_path, variant="fp16").encode(PROMPTS).states
    assert torch.equal(made, expected)


@pytest.mark.parametrize("kept", [["shared.weight"], ["encoder.embed_tokens.weight"], "both"])
def test_the_table_of_words_under_either_name(folder: Path, tmp_path: Path, kept: list[str] | str) -> None:
    state = load_file(folder / "text_encoder" / "model.safetensors")
    words = state.pop("shared.weight")
    state.pop("encoder.embed_tokens.weight", None)
    names = ["shared.weight", "encoder.embed_tokens.weight"] if kept == "both" else kept
    (tmp_path / "text_encoder").mkdir()
    save_file({**state, **{name: words.clone() for name in names}}, tmp_path / "text_encoder" / "model.safetensors")
    (tmp_path / "text_encoder" / "config.json").write_bytes((folder / "text_encoder" / "config.json").read_bytes())
    shutil.copytree(folder / "tokenizer", tmp_path / "tokenizer")
    made = load_prompt_encoder(tmp_path).encode(PROMPTS).states
    assert torch.equal(made, load_prompt_encoder(folder).encode(PROMPTS).states)


@pytest.mark.parametrize(
    ("module", "package"), [("sentencepiece", "sentencepiece"), ("google.protobuf", "protobuf"), ("transformers",) * 2]
)
def test_packages_that_are_not_there_are_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch, module: str, package: str
) -> None:
    real = _optional.importlib.import_module

    def some_missing(name: str) -> Any:
        if name == module:
            raise ImportError(name)
        return real(name)

    monkeypatch.setattr(_optional.importlib, "import_module", some_missing)
    with pytest.raises(ValueError, match=rf"tokenizer.* needs the package {package}.*: pip install '{package}"):
        load_prompt_encoder(folder)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer/spiece.model", b"no model", "no T5Tokenizer that transformers reads"),
        ("text_encoder/config.json", b'{"model_type": "t5"}', "config.json lacks vocab_size"),
    ],
)
def test_files_that_do_not_fit_are_named(folder: Path, tmp_path: Path, name: str, content: bytes, message: str) -> None:
    for part in ("tokenizer/spiece.model", "text_encoder/config.json", "text_encoder/model.safetensors"):
        (tmp_path / part).parent.mkdir(exist_ok=True)
        (tmp_path / part).write_bytes((folder / part).read_bytes())
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_prompt_encoder(tmp_path)


def test_links_that_leave_the_folder(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "if")
    shutil.rmtree(tmp_path / "if" / "tokenizer")
    (tmp_path / "if" / "tokenizer").symlink_to(folder / "tokenizer")
    with pytest.raises(ValueError, match=r"tokenizer leads to .*; put the file itself into the folder"):
        load_prompt_encoder(tmp_path / "if")
