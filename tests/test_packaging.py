"""What is installed, and that a folder named as a package of others is in nobody's way."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from pydiff.ops import attention_triton

ROOT = Path(__file__).parents[1]
PEERS = """
import importlib.util, sys
import torch
from diffusers import UNet2DModel
from diffusers.utils import is_kernels_available
from transformers import CLIPTextConfig, CLIPTextModel
from transformers.utils.import_utils import is_kernels_available as is_viable
print(importlib.util.find_spec("kernels").origin)
assert not is_kernels_available() and not is_viable()
blocks = {"down_block_types": ("AttnDownBlock2D",), "up_block_types": ("AttnUpBlock2D",), "block_out_channels": (4,)}
unet = UNet2DModel(8, norm_num_groups=2, attention_head_dim=2, **blocks)
assert unet(torch.zeros(1, 3, 8, 8), 1).sample.isfinite().all()
sizes = {"hidden_size": 4, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
text = CLIPTextModel(CLIPTextConfig(vocab_size=9, max_position_embeddings=5, **sizes))
assert text(torch.zeros(1, 5, dtype=torch.int64)).last_hidden_state.isfinite().all()
"""


def test_diffusers_and_transformers_run_beside_the_kernels_folder() -> None:
    """Both look for a package of that name, and find this folder when they are started from the checkout."""
    done = subprocess.run([sys.executable, "-c", PEERS], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()) == ROOT / "kernels" / "__init__.py"


def test_the_kernels_are_installed_as_a_part_of_pydiff() -> None:
    found = importlib.util.find_spec("pydiff.kernels")
    assert found is not None
    assert found.origin is not None
    assert Path(found.origin).read_text() == ""


@pytest.mark.parametrize("file", sorted((ROOT / "kernels").glob("*.py")), ids=lambda file: file.stem)
def test_kernels_import_torch_and_triton_only(file: Path) -> None:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            assert {name.name.split(".")[0] for name in node.names} <= {"torch", "triton"}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            assert node.module is not None
            assert node.module.split(".")[0] in ("torch", "triton", *sys.stdlib_module_names)


def test_without_triton_torch_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("pydiff.kernels")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "triton", None)
    attention_triton.load.cache_clear()
    try:
        module, reason = attention_triton.load()
    finally:
        attention_triton.load.cache_clear()
    assert module is None
    assert reason is not None
    assert "pydiff-engine[gpu]" in reason
