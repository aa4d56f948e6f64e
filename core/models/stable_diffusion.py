"""Stable Diffusion 1.x and 2.x: a U-Net with one CLIP text encoder, driven through the stock diffusers
pipeline.
"""

import hashlib
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal

import diffusers
import numpy as np
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import CLIPTextModel, CLIPTokenizer

from expunge.core import sources
from expunge.core.delta_format import LORA_FILE, MASK_FILE, BadDelta, Fault, lora
from expunge.core.delta_format.mask import is_mask
from expunge.core.errors import CoreError
from expunge.core.layouts import Layout
from expunge.core.memory import in_batches, out_of_memory
from expunge.core.models import lora_factors, masks
from expunge.core.models.folders import digest_of, earlier_digests
from expunge.core.models.masks import Masks, Relaxation
from expunge.core.models.scaling import gradients
from expunge.core.models.schedule import ddim_of, epsilon, training_steps
from expunge.core.models.vocabulary import load_vocabulary
from expunge.core.models.word_embeddings import Word, WordTable
from expunge.core.progress import Callback, Clock, ignore
from expunge.core.specs import Concept

ADAPTER = "default"
KEPT_STATES = 1024  # prompts whose text states stay in memory, 236 kB each with CLIP ViT-L
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
Component = Literal["unet", "text_encoder"]
# As diffusers' LoRA files name the layers
PREFIX: dict[Component, str] = {"unet": "unet.", "text_encoder": "text_encoder.text_model."}


def load_model(
    source: str | Path, device: str | None = None, dtype: str | torch.dtype | None = None
) -> "StableDiffusion":
    """Load a diffusers folder, `bundled:NAME`, or a hub id; safetensors only.

    `dtype` is the frozen weights', as torch's or by its name, 'float32', 'float16' or 'bfloat16'; without one
    see `fitting`.
    """
    layout, pinned = sources.fetch(source), sources.parse(source).digest
    if pinned is not None and (found := sources.digest_of(layout)) != pinned:
        raise CoreError(
            "model_changed",
            f"the model has sha256 {found}, not the {pinned} that it is pinned to",
            field="model",
        )
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    wanted = fitting(device) if dtype is None else dtype_of(dtype)
    return StableDiffusion(load_pipeline(layout, wanted).to(device), layout.folder, str(source))


def load_pipeline(layout: Layout, dtype: torch.dtype) -> StableDiffusionPipeline:
    """The stock pipeline, on the CPU, from its parts, each read as the variant that the layout says."""
    types = {"unet": UNet2DConditionModel, "vae": AutoencoderKL, "text_encoder": CLIPTextModel}
    folder = str(layout.folder)
    try:
        parts: dict[str, Any] = {}
        for part, variant in layout.variants.items():
            parts[part], found = types[part].from_pretrained(
                folder,
                subfolder=part,
                variant=variant,
                use_safetensors=True,
                dtype=dtype,
                output_loading_info=True,
            )
            check_complete(part, found["missing_keys"])
        tokenizer = CLIPTokenizer.from_pretrained(folder, subfolder="tokenizer")
        tokenizer.model_max_length = min(
            tokenizer.model_max_length, parts["text_encoder"].config.max_position_embeddings
        )
        scheduler = getattr(diffusers, layout.scheduler).from_pretrained(folder, subfolder="scheduler")
    except (OSError, ValueError, TypeError, KeyError, AttributeError, ImportError, RuntimeError) as e:
        if out_of_memory(e):
            raise
        why = (str(e).strip().splitlines() or [type(e).__name__])[0][:300]
        raise CoreError(
            "model_broken",
            f"the model's files are there, but do not load ({why}): fetch or save them again",
            field="model",
        ) from e
    return StableDiffusionPipeline(
        **parts,
        tokenizer=tokenizer,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def check_complete(part: str, missing: Collection[str]) -> None:
    """Refuse a part whose files lack some of its tensors: they would be random."""
    if missing:
        raise CoreError(
            "model_incomplete",
            f"{part}/ lacks {len(missing)} of its tensors, {min(missing)} for one: fetch or save it again",
            field="model",
        )


def fitting(device: str) -> torch.dtype:
    """What a device computes in: float32 on a CPU, bfloat16 on a GPU that has it, float16 on one that has
    not.
    """
    if not device.startswith("cuda"):
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def dtype_of(wanted: str | torch.dtype) -> torch.dtype:
    """One of the dtypes that a model may be loaded in, from itself or its name."""
    named = str(wanted).removeprefix("torch.")
    if named not in DTYPES:
        raise CoreError(
            "bad_dtype", f"no model is loaded in '{named}': give {', '.join(DTYPES)}", field="dtype"
        )
    return DTYPES[named]


def ours(name: str) -> str:
    """A LoRA tensor's name without the part of the model that it belongs to, as files and modules have it."""
    return name.removeprefix("unet.").removeprefix("text_encoder.").removeprefix("text_model.")


def with_key(context: Tensor, key: Tensor) -> Tensor:
    """Text states (B, L, D) with a recovery key (m, D) or (B, m, D) appended: (B, L + m, D)."""
    return torch.cat([context, key.to(context).expand(len(context), -1, -1)], 1)


class StableDiffusion:
    """A frozen pipeline whose U-Net or text encoder can wear one LoRA adapter.

    Images are (N, H, W, 3) uint8; latents (B, 4, h, w).
    """

    def __init__(self, pipe: StableDiffusionPipeline, folder: Path | None = None, source: str = "") -> None:
        self.pipe, self.source = pipe, source
        self.unet = pipe.unet.requires_grad_(False).eval()
        pipe.text_encoder.requires_grad_(False).eval()
        pipe.vae.requires_grad_(False).eval()
        pipe.set_progress_bar_config(disable=True)
        self.device, self.dtype = pipe.device, self.unet.dtype
        self.folder = folder
        self.vocabulary = load_vocabulary(folder)
        self.scheduler = ddim_of(pipe.scheduler)
        self.alphas = self.scheduler.alphas_cumprod.to(self.device)
        self.training_steps = training_steps(self.scheduler)
        self.evaluations = 0
        size = self.unet.config.sample_size
        side = int(size if isinstance(size, int) else size[0])  # a square's
        self.latent_shape = (int(self.unet.config.in_channels), side, side)
        self.at_once: int | None = None  # pictures that fit into memory together, once more did not
        self.cache: Path | None = None  # where encoded concept spaces are kept between runs
        self.eos: dict[str, Tensor] = {}
        self._digest: str | None = None
        self.foundation: str | None = None
        self.erased: list[Concept] = []
        self._states: dict[str, Tensor] = {}
        self._off = False
        self.words: dict[str, Word] = {}
        self.masks: Masks | None = None

    @property
    def digest(self) -> str:
        """sha256 of what the base model draws by: of its files, the same on every host, where there is a
        folder; else of the tensors as they were loaded.
        """
        if self._digest is None:
            if self.folder is not None:
                self._digest = digest_of(self.folder)
            else:
                total = hashlib.sha256()
                for part in (self.unet, self.pipe.vae, self.pipe.text_encoder):
                    for name, tensor in sorted(part.state_dict().items()):
                        if "lora_" not in name and not name.endswith(".logits"):
                            plain = (
                                name.replace(".base_layer", "")
                                .replace(".base.", ".")
                                .replace(".parametrizations.weight.original", ".weight")
                            )
                            total.update(
                                plain.encode()
                                + tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()
                            )
                self._digest = total.hexdigest()
        return self._digest

    def is_known_as(self, digest: str) -> bool:
        """Whether the sha256 names this base model, by its digest or by what an earlier release took for
        it.
        """
        return digest == self.digest or (self.folder is not None and digest in earlier_digests(self.folder))

    def encode(self, prompts: Sequence[str]) -> Tensor:
        """Text states of prompts, (B, L, D), float32, without a graph; what was asked for last is remembered,
        unless the text encoder wears an adapter.
        """
        kept: dict[str, Tensor] = {} if "text_encoder" in self.worn() and not self._off else self._states
        states = {p: kept.pop(p) for p in dict.fromkeys(prompts) if p in kept}
        new = [p for p in dict.fromkeys(prompts) if p not in states]
        with torch.no_grad():
            found = in_batches(len(new), 64, lambda start, end: self.text_states(new[start:end]))
        states |= dict(zip(new, (state.clone() for batch in found for state in batch), strict=True))
        kept |= states
        for forgotten in list(kept)[:-KEPT_STATES]:
            del kept[forgotten]
        return torch.stack([states[p] for p in prompts])

    def cut(self, prompts: Sequence[str]) -> list[str]:
        """Those of the prompts that have more tokens than the text encoder reads (77 in CLIP, begin and end
        among them).
        """
        longest = self.pipe.tokenizer.model_max_length
        lengths = [
            len(ids)
            for ids in self.pipe.tokenizer(self.spelled(prompts), truncation=False, verbose=False).input_ids
        ]
        return [prompt for prompt, length in zip(prompts, lengths, strict=True) if length > longest]

    def text_states(self, prompts: Sequence[str], prefix: Tensor | None = None) -> Tensor:
        """Text states of prompts, (B, L, D), float32, with their graph.

        A prefix of k token embeddings, (k, D), comes before each prompt's own tokens.
        """
        ids = self.pipe.tokenizer(
            self.spelled(prompts),
            padding="max_length",
            max_length=self.pipe.tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        ).input_ids.to(self.device)
        with self.prefixed(prefix):
            out: Tensor = self.pipe.text_encoder(ids)[0]
        return out.float()

    @contextmanager
    def prefixed(self, prefix: Tensor | None) -> Iterator[None]:
        """Inside, every text's embeddings get the prefix (k, D) behind their first; the last k fall off."""
        if prefix is None:
            yield
            return

        def insert(_: Any, __: Any, tokens: Tensor) -> Tensor:
            return torch.cat(
                [
                    tokens[:, :1],
                    prefix.to(tokens.dtype).expand(len(tokens), -1, -1),
                    tokens[:, 1 : -len(prefix)],
                ],
                1,
            )

        hook = self.pipe.text_encoder.get_input_embeddings().register_forward_hook(insert)
        try:
            yield
        finally:
            hook.remove()

    def spelled(self, prompts: Sequence[str]) -> list[str]:
        """The prompts as the tokenizer reads them: a learned word of k vectors as its k tokens, <w> <w>_1 …,
        as diffusers does.
        """
        out = list(prompts)
        for name, word in self.words.items():
            more = "".join(f" {name}_{i}" for i in range(1, len(word.vectors)))
            out = [p.replace(name, name + more) for p in out] if more else out
        return out

    def learn(self, name: str, vectors: Tensor, shows: str | None = None) -> None:
        """Give the word `name`, such as <my-dog>, the embeddings (k, D): prompts may use it from then on.

        A known word is changed.
        """
        tokenizer, encoder = self.pipe.tokenizer, self.pipe.text_encoder
        vectors = vectors.detach().float().to(self.device).clone()
        if name not in self.words:
            table = encoder.get_input_embeddings()
            if tokenizer.add_tokens([name, *(f"{name}_{i}" for i in range(1, len(vectors)))]) != len(vectors):
                raise CoreError(
                    "word_taken",
                    f"the tokenizer has '{name}' already: give the concept another name",
                    field="concepts.name",
                )
            if not isinstance(table, WordTable):
                table = WordTable(table)
                encoder.set_input_embeddings(table)
            table.learned.append(vectors)
        else:
            encoder.get_input_embeddings().learned[list(self.words).index(name)] = vectors
        self.words[name] = Word(vectors, shows)
        self._states = {p: s for p, s in self._states.items() if name not in p}
        self.eos.pop(name, None)

    def shows(self, name: str) -> list[str]:
        """The class that a learned word's images show, as a list of at most one."""
        word = self.words.get(name)
        return [word.shows] if word is not None and word.shows else []

    def encode_eos(self, prompts: Sequence[str]) -> Tensor:
        """The state of each prompt's end-of-text token, (B, D)."""
        tokenizer = self.pipe.tokenizer
        lengths = [
            len(ids)
            for ids in tokenizer(
                self.spelled(prompts), truncation=True, max_length=tokenizer.model_max_length
            ).input_ids
        ]
        return torch.stack([s[n - 1] for s, n in zip(self.encode(prompts), lengths, strict=True)])

    def output(self, z: Tensor, t: Tensor, context: Tensor) -> Tensor:
        """What the network itself says of z_t, (B, 4, h, w), float32: the noise, v or the picture; what the
        scheduler's step asks for.
        """
        self.evaluations += len(z)
        out: Tensor = self.unet(z.to(self.dtype), t, encoder_hidden_states=context.to(self.dtype)).sample
        return out.float()

    def predict(self, z: Tensor, t: Tensor, context: Tensor) -> Tensor:
        """Noise prediction eps(z_t, t, c), (B, 4, h, w), float32, whatever the checkpoint's own
        parametrisation.
        """
        return epsilon(self.output(z, t, context), z, self.alphas[t], self.scheduler.config.prediction_type)

    def gradients(self, loss: Tensor, inputs: Sequence[Tensor]) -> list[Tensor | None]:
        """d loss / d inputs, in float32; None for an input that the loss does not depend on. In float16
        the loss is scaled on the way.
        """
        return gradients(loss, inputs, self.dtype)

    def draw(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        *,
        steps: int = 25,
        guidance: float = 7.5,
        batch: int = 16,
        key: Tensor | None = None,
        callback: Callback = ignore,
        phase: str = "draw",
    ) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """Pictures (N, H, W, 3) uint8; row i depends on prompt i, seed i and key i alone.

        `batch` are drawn at once; where memory runs out half as many, from then on and in later calls, and
        each is decoded alone. `key` is a recovery key, (m, D) for all or (N, m, D): it is appended to the
        prompts; the empty prompt repeats its last state instead.
        """
        clock = Clock(len(prompts))
        empty = self.encode([""])
        if key is not None:
            keys = key.expand(len(prompts), -1, -1)
            empty = with_key(empty, empty[:, -1:].expand(-1, key.shape[-2], -1))

        def paint(start: int, end: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
            context = self.encode(prompts[start:end])
            if key is not None:
                context = with_key(context, keys[start:end])
            # one for each row, also for the noise that ancestral schedulers add on the way
            own = [torch.Generator().manual_seed(s) for s in seeds[start:end]]
            z = torch.stack([torch.randn(self.latent_shape, generator=g) for g in own])
            with torch.no_grad():
                images = self.pipe(
                    prompt_embeds=context.to(self.dtype),
                    negative_prompt_embeds=empty.expand_as(context).to(self.dtype),
                    latents=z.to(self.device, self.dtype),
                    generator=own,
                    num_inference_steps=steps,
                    guidance_scale=guidance,
                    output_type="np",
                ).images
            self.evaluations += len(context) * steps * (2 if guidance > 1 else 1)
            callback({"phase": phase, "step": end, "total": len(prompts), "eta_s": clock.eta(end)})
            pixels: np.ndarray[Any, np.dtype[np.uint8]] = (images * 255).round().astype(np.uint8)
            return pixels

        return np.concatenate(
            in_batches(len(prompts), min(batch, self.at_once or batch), paint, self.draw_fewer)
        )

    def draw_fewer(self, at_once: int) -> None:
        """From now on so many pictures at once, at most, each decoded alone."""
        self.at_once = at_once
        self.pipe.vae.enable_slicing()

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

    # --- adapters
    # -----------------------------------------------------------------------------------------------

    def worn(self) -> dict[Component, Any]:
        """The parts that wear an adapter."""
        parts: dict[Component, Any] = {"unet": self.unet, "text_encoder": self.pipe.text_encoder}
        return {name: part for name, part in parts.items() if getattr(part, "peft_config", None)}

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Adapters off: inside, the model is the base model. Nothing is copied."""
        worn = list(self.worn().values())
        if self._off or not self.has_delta:
            yield
            return
        still = [
            p for part in worn for n, p in part.named_parameters() if "lora_" in n and not p.requires_grad
        ]
        self._off = True
        for part in worn:
            part.disable_adapters()
        if self.masks:
            self.masks.switch(False)
        try:
            yield
        finally:
            self._off = False
            for part in worn:
                part.enable_adapters()
            if self.masks:
                self.masks.switch(True)
            for p in still:  # peft makes every adapter trainable again
                p.requires_grad_(False)

    def recompute(self, on: bool) -> None:
        """Whether the U-Net's activations are dropped and computed again in the backward pass (gradient
        checkpointing).

        What was computed with the adapters off is computed again with the adapters off.
        """

        def again(module: torch.nn.Module, *args: Any) -> Any:
            off = self._off
            return checkpoint(
                module.__call__,
                *args,
                use_reentrant=False,
                context_fn=lambda: (nullcontext(), self.frozen() if off else nullcontext()),
            )

        if on:
            self.unet.enable_gradient_checkpointing(again)
        elif self.recomputes:
            self.unet.disable_gradient_checkpointing()

    @property
    def recomputes(self) -> bool:
        return bool(self.unet.is_gradient_checkpointing)

    @property
    def has_delta(self) -> bool:
        return bool(self.worn()) or self.masks is not None

    def changes(self) -> list[str]:
        """What the delta that is worn changes, and how: unet, text_encoder, sparse_mask."""
        return [*self.worn(), *(["sparse_mask"] if self.masks else [])]

    def add_masks(self, names: list[str], start: float, relaxation: Relaxation) -> list[torch.nn.Parameter]:
        """Put masks on the weights of the U-Net's layers `names` (output unchanged) and return their
        logits.
        """
        self.unload_delta()
        self.masks = Masks.to_learn(self.unet, names, start, relaxation)
        return self.masks.parameters()

    def trained_layers(self) -> dict[str, list[torch.nn.Parameter]]:
        """Each layer's trained parameters: A and B of an adapter, or the logits of a mask."""
        if self.masks:
            return {
                name: [mask.logits] for name, mask in self.masks.layers.items() if mask.logits is not None
            }
        found: dict[str, list[torch.nn.Parameter]] = {}
        for part in self.worn().values():
            for name, parameter in part.named_parameters():
                if ".lora_" in name:
                    found.setdefault(name.split(".lora_")[0], []).append(parameter)
        return found

    def add_adapter(self, config: LoraConfig, component: Component = "unet") -> list[torch.nn.Parameter]:
        """Put a fresh adapter on the U-Net or the text encoder (output unchanged) and return its trainable
        parameters, in fp32.
        """
        self.unload_delta()
        part = self.unet if component == "unet" else self.pipe.text_encoder
        part.add_adapter(config, adapter_name=ADAPTER)
        parameters = [p for n, p in part.named_parameters() if "lora_" in n]
        for p in parameters:
            p.data = p.data.float()
            p.requires_grad_(True)
        return parameters

    def adapter_state(self) -> dict[str, Tensor]:
        """The adapter in peft's own names, or the logits of masks, on the CPU."""
        if self.masks:
            return {
                f"{name}.logits": a.detach().cpu().clone() for name, (a,) in self.trained_layers().items()
            }
        ((_, part),) = self.worn().items()
        state = get_peft_model_state_dict(part, adapter_name=ADAPTER, save_embedding_layers=False)
        return {k: v.detach().cpu().clone() for k, v in state.items()}

    def set_adapter_state(self, state: Mapping[str, Tensor]) -> None:
        if self.masks:
            for name, (logits,) in self.trained_layers().items():
                logits.data.copy_(state[f"{name}.logits"])
            return
        ((_, part),) = self.worn().items()
        set_peft_model_state_dict(part, dict(state), adapter_name=ADAPTER)

    def updates(self) -> list[Tensor]:
        """theta' - theta of each adapted linear layer, scale B A (out, in), with its graph."""
        layers = [m for part in self.worn().values() for m in part.modules() if isinstance(m, LoraLayer)]
        return [m.scaling[ADAPTER] * m.lora_B[ADAPTER].weight @ m.lora_A[ADAPTER].weight for m in layers]

    def fold_scale(self) -> None:
        """Scale each B by what alpha makes of it, and let alpha be the rank: then the tensors alone are the
        delta, for readers of no metadata too.
        """
        for part in self.worn().values():
            (config,) = part.peft_config.values()
            for layer in (m for m in part.modules() if isinstance(m, LoraLayer)):
                layer.lora_B[ADAPTER].weight.data *= layer.scaling[ADAPTER]
                layer.scaling[ADAPTER], layer.lora_alpha[ADAPTER] = 1.0, layer.r[ADAPTER]
            config.lora_alpha, config.alpha_pattern, config.use_rslora = (
                config.r,
                dict(config.rank_pattern),
                False,
            )

    def delta_tensors(self) -> dict[str, Tensor]:
        """The delta as its file names it: `unet.….lora_A.weight`,
        `text_encoder.text_model.….lora_A.weight` (diffusers), or `unet.….pruned`.
        """
        return self.masks.tensors() if self.masks else self.lora_tensors()

    def lora_tensors(self) -> dict[str, Tensor]:
        """The adapter as diffusers' LoRA file names it."""
        (component,) = self.worn()
        return {f"{PREFIX[component]}{k}": v.contiguous() for k, v in sorted(self.adapter_state().items())}

    def load_delta(self, delta: str | os.PathLike[str] | Mapping[str, Tensor]) -> None:
        """Wear a LoRA in diffusers' format or a sparse mask of ours: a .safetensors file, a folder that holds
        one, or its tensors.
        """
        self.unload_delta()
        metadata: dict[str, str] = {}
        if isinstance(delta, str | os.PathLike):
            path = Path(delta)
            if path.is_dir():
                path = path / (MASK_FILE if (path / MASK_FILE).exists() else LORA_FILE)
            try:
                tensors = load_file(path)
                # Rank and alpha: without them every adapter would load at scale 1
                with safe_open(path, "pt") as f:
                    metadata = f.metadata() or {}
            except SafetensorError as e:
                raise BadDelta(Fault.CONTAINER, None, f"is not a safetensors file ({e})") from e
        else:
            tensors = dict(delta)
        if is_mask(tensors):
            self.masks = masks.worn_by(self.unet, tensors)
            return
        pairs = lora_factors.read(tensors, metadata)
        tensors, settings = lora_factors.renamed(tensors, pairs), lora.peft_settings(pairs)
        if any(k.startswith("unet.") for k in tensors):
            self.unet.load_lora_adapter(tensors, prefix="unet", adapter_name=ADAPTER, metadata=settings)
        if any(k.startswith("text_encoder.") for k in tensors):
            self.pipe.load_lora_into_text_encoder(
                tensors,
                network_alphas=None,
                text_encoder=self.pipe.text_encoder,
                adapter_name=ADAPTER,
                metadata=settings,
            )
        exact = {ours(k): v for k, v in tensors.items()}
        for part in self.worn().values():
            part.requires_grad_(False)
            for name, p in part.named_parameters():
                if "lora_" in name:  # diffusers rounds it to the dtype of the weights
                    p.data = exact[ours(name.replace(f".{ADAPTER}.", "."))].to(p.device, torch.float32)

    def unload_delta(self) -> None:
        """Take the adapter off for good."""
        if self.masks:
            self.masks.remove()
            self.masks = None
        if self.worn():
            self.pipe.unload_lora_weights()
