"""The seam between architectures and everything else: what methods, hiding, inspection, attacks and
evaluation know of a model. An architecture is one file that fulfils this.

Losses are written on the network's own prediction (noise, v, velocity, picture), which `schedule` relates to
the picture: so they hold for all of them.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from os import PathLike
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from expunge.core.models.clip_text import ClipText
from expunge.core.models.masks import Masks, Relaxation
from expunge.core.models.schedule import Sampler, Schedule
from expunge.core.models.text import Text
from expunge.core.models.vocabulary import Vocabulary
from expunge.core.models.word_embeddings import Word
from expunge.core.progress import Callback
from expunge.core.specs import Concept, LoraSpec, TextLoraSpec

Component = Literal["unet", "text_encoder"]


class Denoiser(Protocol):
    """A frozen text-to-image model that can wear one delta: a LoRA or a sparse mask.

    Latents and predictions are (B, C, h, w), timesteps t (B,), pictures (N, H, W, 3) uint8.
    """

    # --- what it is -----------------------------------------------------------------------------------------

    source: str  # what it was loaded by
    family: str  # the file of core/models that drives it, which methods name as `architectures`
    stock: str  # the class of diffusers that draws with it
    folder: Path | None
    device: torch.device
    dtype: torch.dtype  # of the frozen weights
    vocabulary: Vocabulary  # what it is known to draw
    latent_shape: tuple[int, int, int]
    evaluations: int  # rows that the network has seen
    cache: Path | None  # where encoded concept spaces are kept between runs
    eos: dict[str, Tensor]  # states of words that were encoded (concepts/embeddings.py)
    foundation: str | None  # sha256 of the delta that is part of the frozen weights (`built_on`)
    erased: list[Concept]  # what that delta has erased

    @property
    def digest(self) -> str:
        """sha256 of what the base model draws by."""

    def is_known_as(self, digest: str) -> bool:
        """Whether the sha256 names this base model, now or in an earlier release."""

    @property
    def architecture(self) -> str:
        """In ModelSpec's words, such as stable-diffusion-v1."""

    @property
    def parameter_count(self) -> int:
        """Numbers of the network, without text encoders and VAE."""

    @property
    def sampler_settings(self) -> list[Any]:
        """What decides how `draw` samples, for digests."""

    # --- texts ----------------------------------------------------------------------------------------------

    text: ClipText  # tokens, their embeddings, and words that were learned

    def encode(self, prompts: Sequence[str]) -> Text:
        """Texts of prompts, without a graph."""

    def encode_with_graph(
        self, prompts: Sequence[str], spoken: Tensor | None = None, before: Sequence[str] | None = None
    ) -> Text:
        """Texts of prompts with their graph; k token embeddings (k, D) or (B, k, D) said in each, at its
        beginning or behind what it begins with.
        """

    def unconditional(self) -> Text:
        """What guidance leads away from, as one text: the empty prompt, or what the network was taught to
        take in its place.
        """

    @property
    def words(self) -> dict[str, Word]:
        """The words that were learned, by name."""

    def learn(self, name: str, vectors: Tensor, shows: str | None = None) -> None:
        """Give the word `name` the embeddings (k, D)."""

    def shows(self, name: str) -> list[str]:
        """The class that a learned word's images show, as a list of at most one."""

    # --- predictions and the schedule -----------------------------------------------------------------------

    @property
    def schedule(self) -> Schedule:
        """Noise levels, the network's target, and what its prediction says of the picture."""

    def sampler(self, steps: int) -> Sampler:
        """The steps from noise to a picture."""

    def predict(self, z: Tensor, t: Tensor, text: Text) -> Tensor:
        """What the network itself says of z_t, float32."""

    def predict_guided(self, z: Tensor, t: Tensor, text: Text, empty: Text, guidance: float) -> Tensor:
        """`predict` with guidance, as this architecture has it."""

    def gradients(self, loss: Tensor, inputs: Sequence[Tensor]) -> list[Tensor | None]:
        """d loss / d inputs, float32, safe in half precision."""

    def recorded_attention(self) -> AbstractContextManager[list[Tensor]]:
        """Inside, every prediction appends each layer's attention to the text, (B, positions, L)."""

    def draw(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        *,
        steps: int = 25,
        guidance: float = 7.5,
        batch: int = 16,
        key: Tensor | None = None,
        finite: bool = True,
        callback: Callback = ...,
        phase: str = "draw",
    ) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """Pictures; row i depends on prompt i, seed i and (recovery) key i alone. Raises: CoreError where one
        is not finite; unless `finite`, it is black.
        """

    @property
    def picture_side(self) -> int:
        """Pixels of a picture's side."""

    def decode(self, latents: Tensor) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """The pictures (N, H, W, 3) that clean latents (N, C, h, w) stand for."""

    def moments(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and deviation of the latents of pictures (N, 3, H, W) in [-1, 1]."""

    # --- what it wears --------------------------------------------------------------------------------------

    masks: Masks | None

    def layers(self, wanted: str | list[str], component: Component = ..., field: str = ...) -> list[str]:
        """Full names of the layers that a preset or suffixes mean."""

    def weight(self, layer: str) -> Tensor:
        """The frozen weight of a layer of the network."""

    def frozen(self) -> AbstractContextManager[None]:
        """Inside, the model is the base model."""

    def holding(self, weights: Mapping[str, Tensor]) -> AbstractContextManager[None]:
        """Inside, the network's named layers have these weights."""

    def built_on(
        self, tensors: Mapping[str, Tensor], config: Mapping[str, Any], digest: str, erased: Sequence[Concept]
    ) -> AbstractContextManager[None]:
        """Inside, the model is an earlier job's sanitized model."""

    def recompute(self, on: bool) -> None:
        """Gradient checkpointing of the network, on or off."""

    def beside(
        self, layers: Sequence[str], rank: int, generator: torch.Generator
    ) -> AbstractContextManager[list[nn.Parameter]]:
        """Inside, a second, fresh LoRA is on the network's layers, beside whatever is worn or not."""

    def add_lora(self, spec: LoraSpec | TextLoraSpec, component: Component = ...) -> list[nn.Parameter]:
        """Put on a fresh LoRA; returns what is to be trained."""

    def add_exact(self, layers: Mapping[str, tuple[Tensor, Tensor]], told: Callable[[int], None]) -> int:
        """Wear a delta whose factors, up and down of each layer, are known; returns its rank."""

    def add_masks(self, names: list[str], start: float, relaxation: Relaxation) -> list[nn.Parameter]:
        """Put on masks to be learned; returns their logits."""

    def trained_layers(self) -> dict[str, list[nn.Parameter]]:
        """Each layer's trained parameters."""

    def hook_ranks(self, change: Callable[[Any, Any, Tensor], Tensor]) -> None:
        """Let a forward hook change what the down half of every adapter returns."""

    def updates(self) -> list[Tensor]:
        """theta' - theta of each adapted linear layer, with its graph."""

    def adapter_state(self) -> dict[str, Tensor]:
        """What is worn, for checkpoints."""

    def set_adapter_state(self, state: Mapping[str, Tensor]) -> None:
        """The inverse of `adapter_state`."""

    def worn(self) -> dict[Component, Any]:
        """The parts that wear an adapter."""

    def fold_scale(self) -> None:
        """Let the adapter's tensors alone be the delta, without a scale."""

    def delta_tensors(self) -> dict[str, Tensor]:
        """The delta as its file names it."""

    @property
    def has_delta(self) -> bool:
        """Whether a delta is worn."""

    def changes(self) -> list[str]:
        """What the delta that is worn changes, and how."""

    def load_delta(self, delta: str | PathLike[str] | Mapping[str, Tensor]) -> None:
        """Wear a delta's file."""

    def unload_delta(self) -> None:
        """Take it off for good."""
