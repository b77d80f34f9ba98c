"""Where the networks of a model's folders come from: what each engine says in its own way."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from pydiff.networks import Codec, Denoiser

if TYPE_CHECKING:
    from pydiff.folders.index import Index
    from pydiff.models.prior import Prior
    from pydiff.models.unclip import TextProjection
    from pydiff.text.clip import Reading
    from pydiff.text.runner import Runner
    from pydiff.vision import ExampleEncoder, ImageEncoder


class Networks(ABC):
    """One engine's networks. Every method takes the folder of a component and raises ValueError, by name, for files
    that are missing, unsafe or of another network; work that is not checking waits for `pydiff.weights.waiting`.

    Text networks are those of `pydiff.text.runner.TextNetworks`. What an engine does not run it refuses by name.
    """

    whole_tokenizers = False

    def of(self, index: Index) -> Networks:
        """Those of one folder or file of a cascade."""
        return self

    @abstractmethod
    def unet(self, folder: Path) -> Denoiser:
        """A UNet2DConditionModel."""

    @abstractmethod
    def unet2d(self, folder: Path) -> Denoiser:
        """A UNet2DModel."""

    @abstractmethod
    def autoencoder(self, folder: Path) -> Codec:
        """An AutoencoderKL."""

    @abstractmethod
    def t5(self, folder: Path) -> Runner:
        """A T5EncoderModel."""

    @abstractmethod
    def clip(self, folder: Path, reading: Reading, projected: bool) -> Runner:
        """A CLIPTextModel or, projected, a CLIPTextModelWithProjection."""

    def vision(self, folder: Path, extractor: Path) -> ImageEncoder:
        """A CLIPVisionModelWithProjection, with the folder of its preprocessing."""
        _refuse(folder)

    def example(self, folder: Path, extractor: Path) -> ExampleEncoder:
        """A PaintByExampleImageEncoder, with the folder of its preprocessing."""
        _refuse(folder)

    def prior(self, folder: Path) -> Prior:
        """A PriorTransformer."""
        _refuse(folder)

    def text_projection(self, folder: Path) -> TextProjection:
        """A UnCLIPTextProjModel."""
        _refuse(folder)


def _refuse(folder: Path) -> NoReturn:
    raise ValueError(f"{folder} is a network that only torch runs here; open the folder that it was exported from")
