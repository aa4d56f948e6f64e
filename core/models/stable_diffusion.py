"""Stable Diffusion 1.x and 2.x: a U-Net with one CLIP text encoder, driven through the stock diffusers
pipeline.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from expunge.core.errors import CoreError
from expunge.core.layout_checks import SD
from expunge.core.memory import in_batches
from expunge.core.models import cross_attention, lora_factors
from expunge.core.models.adapters import ADAPTER, Adapters
from expunge.core.models.clip_text import ClipText
from expunge.core.models.folders import digest_of, earlier_digests
from expunge.core.models.pipelines import load_pipeline
from expunge.core.models.scaling import gradients
from expunge.core.models.schedule import Sampler, Schedule, ddim_of
from expunge.core.models.text import Text
from expunge.core.models.vocabulary import load_vocabulary
from expunge.core.models.word_embeddings import Word
from expunge.core.progress import Callback, Clock, ignore
from expunge.core.specs import Concept

__all__ = ["StableDiffusion", "load_pipeline"]

DECODED = 16  # latents decoded at once


class StableDiffusion(Adapters):
    """A frozen pipeline whose U-Net or text encoder can wear one LoRA adapter: a `Denoiser`.

    Images are (N, H, W, 3) uint8; latents (B, 4, h, w).
    """

    family, stock = "stable_diffusion", SD
    parts: tuple[str, ...] = ("unet", "vae", "text_encoder")  # those with weights
    upcasts = False  # whether its pipeline decodes in float32 where the VAE's configuration asks for it

    def __init__(self, pipe: Any, folder: Path | None = None, source: str = "") -> None:
        for part in self.parts:
            getattr(pipe, part).requires_grad_(False).eval()
        pipe.set_progress_bar_config(disable=True)
        super().__init__(pipe.unet, pipe.text_encoder)
        self.pipe, self.unet = pipe, pipe.unet
        self.source, self.folder = source, folder
        self.device, self.dtype = pipe.device, pipe.unet.dtype
        self.vocabulary = load_vocabulary(folder)
        self.text = self.reader(pipe)
        self.scheduler = ddim_of(pipe.scheduler)
        self.schedule = Schedule(
            self.scheduler.alphas_cumprod, self.scheduler.config.prediction_type, self.device
        )
        self.samplers: dict[int, Sampler] = {}
        size = self.unet.config.sample_size
        side = int(size if isinstance(size, int) else size[0])  # a square's
        self.latent_shape = (int(self.unet.config.in_channels), side, side)
        self.evaluations = 0
        self.at_once: int | None = None  # pictures that fit into memory together, once more did not
        self.cache: Path | None = None  # where encoded concept spaces are kept between runs
        self.eos: dict[str, Tensor] = {}
        self.foundation: str | None = None
        self.erased: list[Concept] = []
        self._digest: str | None = None

    def reader(self, pipe: Any) -> ClipText:
        """What reads prompts."""
        return ClipText(pipe.tokenizer, pipe.text_encoder, pipe.device)

    # --- what it is -----------------------------------------------------------------------------------------

    @property
    def digest(self) -> str:
        """sha256 of what the base model draws by: of its files, the same on every host, where there is a
        folder; else of the tensors as they were loaded.
        """
        if self._digest is None:
            self._digest = digest_of(self.folder) if self.folder is not None else self.tensors_digest()
        return self._digest

    def tensors_digest(self) -> str:
        """sha256 over the names and bytes of the frozen tensors, whatever wraps them by now."""
        total = hashlib.sha256()
        for part in self.parts:
            for name, tensor in sorted(getattr(self.pipe, part).state_dict().items()):
                if "lora_" in name or name.endswith(".logits"):
                    continue
                plain = name.replace(".base_layer", "").replace(".base.", ".")
                plain = plain.replace(".parametrizations.weight.original", ".weight")
                raw = tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()
                total.update(plain.encode() + raw)
        return total.hexdigest()

    def is_known_as(self, digest: str) -> bool:
        """Whether the sha256 names this base model, by its digest or by what an earlier release took for
        it.
        """
        return digest == self.digest or (self.folder is not None and digest in earlier_digests(self.folder))

    @property
    def architecture(self) -> str:
        """In ModelSpec's words; of a network of other sizes than those, the pipeline that loads it."""
        config = self.unet.config
        if tuple(config.block_out_channels) == (320, 640, 1280, 1280):
            match config.cross_attention_dim, self.schedule.prediction:
                case 768, _:
                    return "stable-diffusion-v1"
                case 1024, "v_prediction":
                    return "stable-diffusion-v2-768-v"
                case 1024, _:
                    return "stable-diffusion-v2-512"
        return "stable-diffusion-custom"

    @property
    def sampler_settings(self) -> list[Any]:
        """What decides how `draw` samples: the pipeline's scheduler and its settings."""
        settings = {k: v for k, v in self.pipe.scheduler.config.items() if not k.startswith("_")}
        return [type(self.pipe.scheduler).__name__, settings]

    # --- texts ----------------------------------------------------------------------------------------------

    def encode(self, prompts: Sequence[str]) -> Text:
        """Texts of prompts, without a graph; remembered, unless the text encoder wears an adapter."""
        return self.text.encode(prompts, remember="text_encoder" not in self.worn() or self._off)

    def encode_with_graph(
        self, prompts: Sequence[str], spoken: Tensor | None = None, before: Sequence[str] | None = None
    ) -> Text:
        """Texts of prompts with their graph; k token embeddings (k, D) or (B, k, D) said in each, at its
        beginning or behind what it begins with.
        """
        return self.text.encode_with_graph(prompts, spoken, before)

    @property
    def words(self) -> dict[str, Word]:
        """The words that were learned, by name."""
        return self.text.words

    def learn(self, name: str, vectors: Tensor, shows: str | None = None) -> None:
        """Give the word `name` the embeddings (k, D); a known word is changed."""
        self.text.learn(name, vectors, shows)
        self.eos.pop(name, None)

    def shows(self, name: str) -> list[str]:
        """The class that a learned word's images show, as a list of at most one."""
        word = self.words.get(name)
        return [word.shows] if word is not None and word.shows else []

    def unconditional(self) -> Text:
        """What guidance leads away from, as one text: the empty prompt."""
        return self.encode([""])

    # --- predictions ----------------------------------------------------------------------------------------

    def conditions(self, text: Text) -> dict[str, Any]:
        """What the U-Net reads, of texts (B)."""
        return {"encoder_hidden_states": text.states.to(self.dtype)}

    def predict(self, z: Tensor, t: Tensor, text: Text) -> Tensor:
        """What the network itself says of z_t, (B, 4, h, w), float32: the noise, v or the picture."""
        self.evaluations += len(z)
        out: Tensor = self.unet(z.to(self.dtype), t, **self.conditions(text)).sample
        return out.float()

    def predict_guided(self, z: Tensor, t: Tensor, text: Text, empty: Text, guidance: float) -> Tensor:
        """`predict` with classifier-free guidance away from the empty prompt, both halves in one call."""
        if guidance <= 1:
            return self.predict(z, t, text)
        both = self.predict(torch.cat([z, z]), torch.cat([t, t]), Text.cat([empty, text]))
        out_0, out_c = both.chunk(2)
        return out_0 + guidance * (out_c - out_0)

    def gradients(self, loss: Tensor, inputs: Sequence[Tensor]) -> list[Tensor | None]:
        """d loss / d inputs, in float32; None for an input that the loss does not depend on. In float16
        the loss is scaled on the way.
        """
        return gradients(loss, inputs, self.dtype)

    def sampler(self, steps: int) -> Sampler:
        """DDIM in so many steps over the checkpoint's own noise."""
        if steps not in self.samplers:
            self.samplers[steps] = Sampler(self.scheduler, steps)
        return self.samplers[steps]

    @contextmanager
    def recorded_attention(self) -> Iterator[list[Tensor]]:
        """Inside, every prediction appends each cross-attention layer's probabilities, (B, positions, L)."""
        recomputes = self.recomputes
        self.recompute(False)  # what is recorded must have a graph
        try:
            with cross_attention.recorded(self.unet) as kept:
                yield kept
        finally:
            self.recompute(recomputes)

    def moments(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and deviation of the latents of pictures (N, 3, H, W) in [-1, 1], in the network's scale."""
        with self.vae_in_range() as vae:
            found = vae.encode(pixels.to(self.device, vae.dtype)).latent_dist
        scale = vae.config.scaling_factor
        return found.mean.float() * scale, found.std.float() * scale

    @contextmanager
    def vae_in_range(self) -> Iterator[Any]:
        """The VAE, inside in float32 where it would overflow in float16, as its configuration says."""
        vae, dtype = self.pipe.vae, self.pipe.vae.dtype
        widened = dtype == torch.float16 and bool(getattr(vae.config, "force_upcast", False)) and self.upcasts
        if widened:
            vae.to(torch.float32)
        try:
            yield vae
        finally:
            if widened:
                vae.to(dtype)

    @property
    def picture_side(self) -> int:
        """Pixels of a picture's side."""
        return self.latent_shape[1] * int(self.pipe.vae_scale_factor)

    # --- pictures -------------------------------------------------------------------------------------------

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
        callback: Callback = ignore,
        phase: str = "draw",
    ) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """Pictures (N, H, W, 3) uint8; row i depends on prompt i, seed i and key i alone, but for rounding:
        in a batch of another size a pixel may be 1 of 255 apart, as sums are taken in another order.

        `batch` are drawn at once; where memory runs out half as many, from then on and in later calls, and
        each is decoded alone. `key` is a recovery key, (m, D) for all or (N, m, D): it is appended to the
        prompts; the empty prompt repeats its last state instead. A picture that is not finite is an error;
        unless `finite`, it is black.

        Raises: CoreError where a picture is not finite.
        """
        clock = Clock(len(prompts))
        empty = self.unconditional()
        if key is not None:
            keys = key.expand(len(prompts), -1, -1)
            empty = empty.with_key(empty.states[:, -1:].expand(-1, key.shape[-2], -1))

        def paint(start: int, end: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
            text = self.encode(prompts[start:end])
            if key is not None:
                text = text.with_key(keys[start:end])
            # one for each row, also for the noise that ancestral schedulers add on the way
            own = [torch.Generator().manual_seed(s) for s in seeds[start:end]]
            z = torch.stack([torch.randn(self.latent_shape, generator=g) for g in own])
            with torch.no_grad():
                images = self.pipe(
                    **self.asked(text, empty.expand(len(text))),
                    latents=z.to(self.device, self.dtype),
                    generator=own,
                    num_inference_steps=steps,
                    guidance_scale=guidance,
                    output_type="np",
                ).images
            self.evaluations += len(text) * steps * (2 if guidance > 1 else 1)
            callback({"phase": phase, "step": end, "total": len(prompts), "eta_s": clock.eta(end)})
            broken = ~np.isfinite(images).all((1, 2, 3))
            if broken.any() and finite:
                raise CoreError(
                    "pictures_not_finite",
                    f"the model draws NaN or infinity for '{prompts[start + int(broken.argmax())]}': its"
                    f" weights, or what it computes in {self.dtype}, are out of range; lower"
                    " method.learning_rate, or load the model in float32",
                    field="method.learning_rate",
                )
            images[broken] = 0
            pixels: np.ndarray[Any, np.dtype[np.uint8]] = (images * 255).round().astype(np.uint8)
            return pixels

        size = min(batch, self.at_once or batch)
        return np.concatenate(in_batches(len(prompts), size, paint, self.draw_fewer))

    def asked(self, text: Text, empty: Text) -> dict[str, Tensor]:
        """Texts as the stock pipeline takes them."""
        return {
            "prompt_embeds": text.states.to(self.dtype),
            "negative_prompt_embeds": empty.states.to(self.dtype),
        }

    @torch.no_grad()
    def decode(self, latents: Tensor) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """The pictures (N, H, W, 3) uint8 that clean latents (N, 4, h, w) stand for."""
        with self.vae_in_range() as vae:

            def paint(start: int, end: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
                z = (latents[start:end] / vae.config.scaling_factor).to(vae.dtype)
                images = self.pipe.image_processor.postprocess(vae.decode(z).sample, output_type="np")
                pixels: np.ndarray[Any, np.dtype[np.uint8]] = (images * 255).round().astype(np.uint8)
                return pixels

            return np.concatenate(in_batches(len(latents), self.at_once or DECODED, paint, self.draw_fewer))

    def draw_fewer(self, at_once: int) -> None:
        """From now on so many pictures at once, at most, each decoded alone."""
        self.at_once = at_once
        self.pipe.vae.enable_slicing()

    # --- what it wears --------------------------------------------------------------------------------------

    @contextmanager
    def built_on(
        self, tensors: Mapping[str, Tensor], config: Mapping[str, Any], digest: str, erased: Sequence[Concept]
    ) -> Iterator[None]:
        """Inside, the model is an earlier job's sanitized model: its delta is part of the frozen weights.

        `digest` names it to checkpoints; what it has erased is never a target. Any adapter is gone
        afterwards.
        """
        with lora_factors.folded(self.unet, tensors, config):
            self.foundation, self.erased = digest, list(erased)
            try:
                yield
            finally:
                self.unload_delta()
                self.foundation, self.erased = None, []

    def named_layers(self, wanted: str, leaves: list[str]) -> list[str]:
        """ESD's names: xattn is cross-attention, xattn_strict its keys and values."""
        match wanted:
            case "xattn":
                return [n for n in leaves if ".attn2." in n]
            case "xattn_strict":
                return [n for n in leaves if n.endswith((".attn2.to_k", ".attn2.to_v"))]
            case "noxattn":
                return [n for n in leaves if ".attn2." not in n]
            case "selfattn":
                return [n for n in leaves if ".attn1." in n]
            case "attention":
                return [n for n in leaves if ".self_attn." in n]
            case "mlp":
                return [n for n in leaves if ".mlp." in n]
        return leaves

    def load_lora(self, tensors: Mapping[str, Tensor], settings: Mapping[str, Any]) -> None:
        if any(k.startswith("unet.") for k in tensors):
            self.unet.load_lora_adapter(dict(tensors), prefix="unet", adapter_name=ADAPTER, metadata=settings)
        if any(k.startswith("text_encoder.") for k in tensors):
            self.pipe.load_lora_into_text_encoder(
                dict(tensors),
                network_alphas=None,
                text_encoder=self.pipe.text_encoder,
                adapter_name=ADAPTER,
                metadata=settings,
            )

    def unload_lora(self) -> None:
        self.pipe.unload_lora_weights()
