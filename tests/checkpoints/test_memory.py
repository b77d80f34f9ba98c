"""Opening a folder spends no more memory than its weights, in the type asked for, and one of its shards."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import diffusers
import pytest
import torch

from tests.checkpoints import makers

MB = 1 << 20
SHARD, SLACK = 24, 24  # MB

# Run in a process of its own: opens the small folder, so that all code is there, then the large one. Prints how much
# more memory than before was held at most, in bytes.
OPENS = """
import sys
import torch, pydiff
small, large, dtype = sys.argv[1:]

def status(name):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(name + ":"))

pydiff.load(small, dtype=getattr(torch, dtype))
before = status("VmRSS")
pipe = pydiff.load(large, dtype=getattr(torch, dtype))
print(status("VmHWM") - before)
"""


def save(folder: Path, width: int) -> int:
    """A U-Net in shards; returns the count of its weights."""
    torch.manual_seed(0)
    unet = diffusers.UNet2DModel(
        sample_size=16, block_out_channels=(width, 2 * width), layers_per_block=1, norm_num_groups=4,
        down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2, add_attention=False,
    )  # fmt: skip
    makers.saved(diffusers.DDPMPipeline(unet, diffusers.DDPMScheduler()), folder)
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    unet.save_pretrained(folder / "unet", max_shard_size=f"{SHARD}MB")
    return sum(weight.numel() for weight in unet.parameters())


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, int]:
    small, large = tmp_path_factory.mktemp("small"), tmp_path_factory.mktemp("large")
    save(small, 8)
    count = save(large, 232)
    shards = [file.stat().st_size for file in (large / "unet").glob("*.safetensors")]
    assert len(shards) >= 4
    assert max(shards) <= SHARD * MB
    return small, large, count


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the kernel does not say how much memory was held")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_checkpoints_are_opened_shard_by_shard(folders: tuple[Path, Path, int], dtype: str) -> None:
    small, large, count = folders
    child = [sys.executable, "-c", OPENS, str(small), str(large), dtype]
    held = int(subprocess.run(child, check=True, capture_output=True, text=True).stdout)
    weights = count * getattr(torch, dtype).itemsize
    assert weights < held <= weights + (SHARD + SLACK) * MB
