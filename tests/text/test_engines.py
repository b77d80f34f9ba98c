"""Text encoders are the same over NumPy's arrays as over torch's, and where torch does not import."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import pydiff
from pydiff.text.clip import STABLE_DIFFUSION_XL, UNCLIP, ClipEncoder
from pydiff.text.encoders import TextEncoder
from pydiff.text.loading import open_text_encoder
from pydiff.text.tokenizer_files import write_tokenizer
from pydiff.text.weighting import weigh
from tests.text.clip_folders import make_folder
from tests.text.lookup import LookUp, LookUps
from tests.text.small_tokenizers import clip

ROOT = Path(__file__).parents[2]
FOLDER = Path(pydiff.__file__).parent / "embedded" / "weights" / "base"
PROMPTS = ["a red circle", None, "a (red:1.5) circle", "a red circle", "red " * 100]


def encoder(kind: str, engine: Any) -> TextEncoder:
    if kind == "t5":
        return open_text_encoder(FOLDER, LookUps(engine))
    runners, reading = [LookUp(engine)] * 2, UNCLIP if kind == "unclip" else STABLE_DIFFUSION_XL
    return ClipEncoder([clip()] * 2, runners, reading, absent_is_zero=kind == "xl")


@pytest.mark.parametrize("kind", ["t5", "xl", "unclip"])
def test_numpy_and_torch_encode_alike(kind: str) -> None:
    prompts, options = PROMPTS[:4] if kind == "unclip" else PROMPTS, {"weighting": True}
    if kind != "unclip":
        options["chunks"] = True
    made, expected = (encoder(kind, engine).encode(prompts, **options) for engine in (np.asarray, torch.from_numpy))
    for ours, theirs in zip(made, expected, strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            assert isinstance(ours, np.ndarray)
            assert str(ours.dtype) == str(theirs.dtype).removeprefix("torch.")
            np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-6, atol=1e-6)
    assert made.states[1].any() != (kind == "xl")  # no prompt


def test_no_layer_is_skipped_where_the_engine_has_only_the_last() -> None:
    with pytest.raises(ValueError, match="clip_skip is 1, but this model's text encoder has no such option"):
        encoder("xl", np.asarray).check(["a"], clip_skip=1)


def test_rows_of_mean_zero_are_weighed() -> None:
    states = np.float32([[[1.0], [-1.0]], [[1.0], [1.0]]])
    made = weigh(states, np.float32([[2.0, 2.0], [0.0, 0.0]]))
    assert made.dtype == np.float32
    assert made.ravel().tolist() == [2.0, -2.0, 0.0, 0.0]


CODE = """
import sys
sys.modules["torch"] = None  # importing it raises
import importlib
from pathlib import Path
import numpy as np
for name in ("weights", "weights.hub", "text.caption", "text.clip", "text.google", "vision", "unclip", "folders"):
    importlib.import_module(f"pydiff.{name}")
from pydiff.text.alignment import align
from pydiff.text.loading import open_text_encoder
from pydiff.text.prompt_edit import prompt_edit, word_probe
from pydiff.text.spans import read_columns
from tests.text.lookup import LookUps

text = open_text_encoder(Path(sys.argv[1]), LookUps())
pair, none = text.encode_pair(["a red circle", "a (blue:1.3) ring"], [None, None], weighting=True)
columns = read_columns(text.tokenizers[0], ["a red circle", "a blue ring"], as_read=text.as_read)
alignment = align(*columns)
table = prompt_edit(columns, 10, cross_replace=0.5, reweight={"ring": 2.0})
arrays = [pair.states, none.states, alignment.transfer, table.at(0).keep, word_probe(columns, "red")]
assert all(isinstance(array, np.ndarray) for array in arrays)
print(alignment.swapped, [array.shape for array in arrays])
"""


def test_without_torch() -> None:
    done = subprocess.run([sys.executable, "-c", CODE, FOLDER], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.stderr == ""
    shapes = [(2, 77, 8), (2, 77, 8), (77, 77), (2, 77), (2, 77)]
    assert done.stdout.strip() == f"{(('red', 'blue'), ('circle', 'ring'))} {shapes}"


WRITTEN = """
import sys
sys.modules.update(torch=None, transformers=None)  # importing them raises
from pathlib import Path
from pydiff.text.loading import open_text_encoder
from tests.text.lookup import LookUps

text = open_text_encoder(Path(sys.argv[1]), LookUps(whole_tokenizers=True))
print([[one.read(sys.argv[2:], False), one.window, one.pad] for one in text.tokenizers])
"""


@pytest.mark.parametrize("family", ["xl", "unclip", "t5"])
def test_written_tokenizers_read_the_same_without_transformers(tmp_path: Path, family: str) -> None:
    if family == "t5":
        shutil.copytree(FOLDER, tmp_path, dirs_exist_ok=True)
    else:
        make_folder(tmp_path, family)
    prompts = ["The  DOG, a cat's\tand café", "", "<|endoftext|> in it", "日本 " * 9]
    tokenizers = open_text_encoder(tmp_path, LookUps()).tokenizers
    for tokenizer, folder in zip(tokenizers, sorted(tmp_path.glob("tokenizer*")), strict=True):
        shutil.rmtree(folder)
        write_tokenizer(folder, tokenizer)
        assert sorted(path.name for path in folder.iterdir()) == ["tokenizer.json", "tokenizer_config.json"]
    command = [sys.executable, "-c", WRITTEN, tmp_path, *prompts]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.stderr == ""
    assert done.stdout.strip() == str([[one.read(prompts, False), one.window, one.pad] for one in tokenizers])
