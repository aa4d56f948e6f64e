"""What a model wears: one LoRA adapter on its network or its text encoder, or a sparse mask; put on, switched
off, trained, read and written.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from expunge.core.delta_format import LORA_FILE, MASK_FILE, lora
from expunge.core.delta_format.mask import is_mask
from expunge.core.errors import CoreError
from expunge.core.models import lora_factors, masks
from expunge.core.models.denoiser import Component
from expunge.core.models.masks import Masks, Relaxation
from expunge.core.specs import LoraSpec, TextLoraSpec

ADAPTER = "default"


def bare(name: str) -> str:
    """A LoRA tensor's name without the part of the model that it belongs to, as files and modules have it."""
    return name.removeprefix("unet.").removeprefix("text_encoder.").removeprefix("text_model.")


def lora_parameters(part: nn.Module) -> list[nn.Parameter]:
    """The parameters of the adapters on a part of the model, or on one layer."""
    return [p for name, p in part.named_parameters() if "lora_" in name]


class Adapters:
    """The parts of a model that may wear a delta. An architecture inherits this, and says which they are.

    network: the denoising network, whose name in LoRA files is `network_name`; encoder: the text encoder.
    """

    network_name: Component = "unet"

    def __init__(self, network: nn.Module, encoder: nn.Module) -> None:
        self.network, self.encoder = network, encoder
        self.masks: Masks | None = None
        self._off = False

    def part(self, component: Component) -> nn.Module:
        return self.network if component == self.network_name else self.encoder

    # --- which layers ---------------------------------------------------------------------------------------

    def named_layers(self, wanted: str, leaves: list[str]) -> list[str]:
        """Those of the layers that a preset such as 'xattn_strict' means on this architecture."""
        raise NotImplementedError

    def layers(
        self,
        wanted: str | list[str],
        component: Component = "unet",
        field: str = "method.lora.target_modules",
    ) -> list[str]:
        """Full names of the linear and convolution layers that `wanted`, a preset or suffixes, means.

        Raises: CoreError that names `field` where no layer is meant.
        """
        leaves = [
            name.replace(".base_layer", "")
            for name, module in self.part(component).named_modules()
            if isinstance(module, nn.Linear | nn.Conv2d) and "lora_" not in name
        ]
        if isinstance(wanted, str):
            names = self.named_layers(wanted, leaves)
        else:
            names = [n for n in leaves if any(n == s or n.endswith(f".{s}") for s in wanted)]
        if not names:
            raise CoreError(
                "unknown_modules",
                f"no layer of this model ends in {wanted}: try a preset such as 'xattn', on the text encoder"
                " 'attention'",
                field=field,
            )
        return names

    def weight(self, layer: str) -> Tensor:
        """The frozen weight of a layer of the network, (out, in) or (out, in, h, w)."""
        weight = self.network.get_submodule(layer).weight
        assert isinstance(weight, Tensor)
        return weight.detach()

    @property
    def parameter_count(self) -> int:
        return sum(p.numel() for p in self.network.parameters())

    # --- on and off -----------------------------------------------------------------------------------------

    def worn(self) -> dict[Component, Any]:
        """The parts that wear an adapter, by their names in LoRA files."""
        parts: dict[Component, Any] = {self.network_name: self.network, "text_encoder": self.encoder}
        return {name: part for name, part in parts.items() if getattr(part, "peft_config", None)}

    def lora_layers(self) -> list[LoraLayer]:
        """The layers that wear an adapter."""
        modules = [m for part in self.worn().values() for m in part.modules()]
        return [m for m in modules if isinstance(m, LoraLayer)]

    @property
    def has_delta(self) -> bool:
        return bool(self.worn()) or self.masks is not None

    def changes(self) -> list[str]:
        """What the delta that is worn changes, and how: unet, text_encoder, sparse_mask."""
        return [*self.worn(), *(["sparse_mask"] if self.masks else [])]

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Adapters off: inside, the model is the base model. Nothing is copied."""
        if self._off or not self.has_delta:
            yield
            return
        # At each step: one walk over all modules, where peft's own switches take one each
        layers = self.lora_layers()
        trained = [p for layer in layers for p in lora_parameters(layer)]
        still = [p for p in trained if not p.requires_grad]
        self._off = True
        for layer in layers:
            layer.enable_adapters(False)
        if self.masks:
            self.masks.switch(False)
        try:
            yield
        finally:
            self._off = False
            for layer in layers:
                layer.enable_adapters(True)
            if self.masks:
                self.masks.switch(True)
            for p in still:  # peft makes every adapter trainable again
                p.requires_grad_(False)

    @contextmanager
    def holding(self, weights: Mapping[str, Tensor]) -> Iterator[None]:
        """Inside, the network's named layers have these weights; afterwards what they had, bit by bit."""
        with lora_factors.holding(self.network, weights):
            yield

    @contextmanager
    def beside(
        self, layers: Sequence[str], rank: int, generator: torch.Generator
    ) -> Iterator[list[nn.Parameter]]:
        """Inside, a second, fresh LoRA (output unchanged) is on the network's linear layers, whether the
        delta is worn or switched off; yields its parameters, down (r, in) and up (out, r) of each layer.
        """
        parameters, hooks = list[nn.Parameter](), []
        for name in layers:
            module = self.network.get_submodule(name)
            out_features, in_features = self.weight(name).shape
            down = torch.randn(rank, in_features, generator=generator) / rank
            pair = [
                nn.Parameter(part.to(self.weight(name).device))
                for part in (down, torch.zeros(out_features, rank))
            ]
            parameters += pair

            def add(_: Any, inputs: Any, output: Tensor, pair: list[nn.Parameter] = pair) -> Tensor:
                moved: Tensor = output + (inputs[0].float() @ pair[0].T @ pair[1].T).to(output.dtype)
                return moved

            hooks.append(module.register_forward_hook(add))
        try:
            yield parameters
        finally:
            for hook in hooks:
                hook.remove()

    def recompute(self, on: bool) -> None:
        """Whether the network's activations are dropped and computed again in the backward pass (gradient
        checkpointing).

        What was computed with the adapters off is computed again with the adapters off.
        """
        network: Any = self.network

        def again(module: nn.Module, *args: Any) -> Any:
            off = self._off
            return checkpoint(
                module.__call__,
                *args,
                use_reentrant=False,
                context_fn=lambda: (nullcontext(), self.frozen() if off else nullcontext()),
            )

        if on:
            network.enable_gradient_checkpointing(again)
        elif self.recomputes:
            network.disable_gradient_checkpointing()

    @property
    def recomputes(self) -> bool:
        network: Any = self.network
        return bool(network.is_gradient_checkpointing)

    # --- to be trained --------------------------------------------------------------------------------------

    def add_lora(self, spec: LoraSpec | TextLoraSpec, component: Component = "unet") -> list[nn.Parameter]:
        """Put on a fresh LoRA as the spec says; alpha omitted means scale 1. Returns what to train."""
        config = LoraConfig(
            r=spec.rank,
            lora_alpha=spec.alpha or spec.rank,
            target_modules=self.layers(spec.target_modules, component),
            init_lora_weights=True,
        )
        return self.add_adapter(config, component)

    def add_exact(self, layers: Mapping[str, tuple[Tensor, Tensor]], told: Callable[[int], None]) -> int:
        """Wear a delta whose factors are known as one LoRA of scale 1.

        layers: up (out, r) and down (r, in) of each layer of the network. `told` hears how many are written.
        Returns the rank r.
        """
        rank = next(iter(layers.values()))[1].shape[0]
        config: Any = LoraConfig(r=rank, lora_alpha=rank, target_modules=list(layers))
        self.add_adapter(config)
        state = self.adapter_state()
        for i, (name, (up, down)) in enumerate(layers.items()):
            state[f"{name}.lora_A.weight"] = down.float().cpu()
            state[f"{name}.lora_B.weight"] = up.float().cpu()
            told(i + 1)
        self.set_adapter_state(state)
        return rank

    def add_adapter(self, config: LoraConfig, component: Component = "unet") -> list[nn.Parameter]:
        """Put a fresh adapter on a part (output unchanged) and return its trainable parameters, in fp32."""
        self.unload_delta()
        part: Any = self.part(component)
        part.add_adapter(config, adapter_name=ADAPTER)
        parameters = lora_parameters(part)
        for p in parameters:
            p.data = p.data.float()
            p.requires_grad_(True)
        return parameters

    def add_masks(self, names: list[str], start: float, relaxation: Relaxation) -> list[nn.Parameter]:
        """Put masks on the weights of the network's layers (output unchanged) and return their logits."""
        self.unload_delta()
        self.masks = Masks.to_learn(self.network, names, start, relaxation)
        return self.masks.parameters()

    def trained_layers(self) -> dict[str, list[nn.Parameter]]:
        """Each layer's trained parameters: A and B of an adapter, or the logits of a mask."""
        if self.masks:
            return {
                name: [mask.logits] for name, mask in self.masks.layers.items() if mask.logits is not None
            }
        found: dict[str, list[nn.Parameter]] = {}
        for part in self.worn().values():
            for name, parameter in part.named_parameters():
                if ".lora_" in name:
                    found.setdefault(name.split(".lora_")[0], []).append(parameter)
        return found

    def hook_ranks(self, change: Callable[[Any, Any, Tensor], Tensor]) -> None:
        """Let a forward hook change what the down half of every adapter returns, (…, r)."""
        for part in self.worn().values():
            for name, module in part.named_modules():
                if name.endswith(f"lora_A.{ADAPTER}"):
                    module.register_forward_hook(change)

    def updates(self) -> list[Tensor]:
        """theta' - theta of each adapted linear layer, scale B A (out, in), with its graph."""
        return [
            layer.scaling[ADAPTER] * layer.lora_B[ADAPTER].weight @ layer.lora_A[ADAPTER].weight
            for layer in self.lora_layers()
        ]

    # --- read and written -----------------------------------------------------------------------------------

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
        """The inverse of `adapter_state`, on an adapter of the same shape."""
        if self.masks:
            for name, (logits,) in self.trained_layers().items():
                logits.data.copy_(state[f"{name}.logits"])
            return
        ((_, part),) = self.worn().items()
        set_peft_model_state_dict(part, dict(state), adapter_name=ADAPTER)

    def fold_scale(self) -> None:
        """Scale each B by what alpha makes of it, and let alpha be the rank: then the tensors alone are the
        delta, for readers of no metadata too.
        """
        for part in self.worn().values():
            for layer in (m for m in part.modules() if isinstance(m, LoraLayer)):
                layer.lora_B[ADAPTER].weight.data *= layer.scaling[ADAPTER]
                layer.scaling[ADAPTER], layer.lora_alpha[ADAPTER] = 1.0, layer.r[ADAPTER]
            (config,) = part.peft_config.values()
            config.lora_alpha, config.alpha_pattern = config.r, dict(config.rank_pattern)
            config.use_rslora = False

    def delta_tensors(self) -> dict[str, Tensor]:
        """The delta as its file names it: `unet.….lora_A.weight`,
        `text_encoder.text_model.….lora_A.weight` (diffusers), or `unet.….pruned`.
        """
        return self.masks.tensors() if self.masks else self.lora_tensors()

    def lora_tensors(self) -> dict[str, Tensor]:
        """The adapter as diffusers' LoRA file names it."""
        (component,) = self.worn()
        return {
            f"{lora.PREFIXES[component]}{k}": v.contiguous() for k, v in sorted(self.adapter_state().items())
        }

    def load_delta(self, delta: str | os.PathLike[str] | Mapping[str, Tensor]) -> None:
        """Wear a LoRA in diffusers' format or a sparse mask of ours: a .safetensors file, a folder that holds
        one, or its tensors.

        Raises: BadDelta where it is not a safetensors file, or not a LoRA that this model can wear.
        """
        self.unload_delta()
        tensors, metadata = read_delta(delta)
        if is_mask(tensors):
            self.masks = masks.worn_by(self.network, tensors)
            return
        pairs = lora_factors.read(tensors, metadata)
        tensors = lora_factors.renamed(tensors, pairs)
        self.load_lora(tensors, lora.peft_settings(pairs))
        # diffusers rounds an adapter to the dtype of the weights: here it is float32, as the file has it.
        exact = {bare(k): v for k, v in tensors.items()}
        for part in self.worn().values():
            part.requires_grad_(False)
            for name, p in part.named_parameters():
                if "lora_" in name:
                    p.data = exact[bare(name.replace(f".{ADAPTER}.", "."))].to(p.device, torch.float32)

    def load_lora(self, tensors: Mapping[str, Tensor], settings: Mapping[str, Any]) -> None:
        """Let the library that the pipeline comes from put the LoRA on, under the name ADAPTER."""
        raise NotImplementedError

    def unload_delta(self) -> None:
        """Take the adapter, or the mask, off for good."""
        if self.masks:
            self.masks.remove()
            self.masks = None
        if self.worn():
            self.unload_lora()

    def unload_lora(self) -> None:
        """Let the pipeline's library take its LoRA off."""
        raise NotImplementedError


def read_delta(
    delta: str | os.PathLike[str] | Mapping[str, Tensor],
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of a delta's file, of the one in a folder, or of tensors alone."""
    if not isinstance(delta, str | os.PathLike):
        return dict(delta), {}
    path = Path(delta)
    if path.is_dir():
        path = path / (MASK_FILE if (path / MASK_FILE).exists() else LORA_FILE)
    return lora_factors.read_file(path)
