"""Which modules of a U-Net or a text encoder an adapter sits on, by the field's names."""

from typing import Any

from peft import LoraConfig
from torch import nn

from expunge.core.errors import CoreError
from expunge.core.models import Denoiser
from expunge.core.specs import (
    AdvUnlearnSpec,
    FineTuneSpec,
    LoraSpec,
    PruneSpec,
    TextEncoderSpec,
    TextLoraSpec,
    TrainSpec,
)


def target_modules(
    part: nn.Module, wanted: str | list[str], field: str = "method.lora.target_modules"
) -> list[str]:
    """Full names of the linear (and, outside cross-attention, convolution) layers that `wanted` names."""
    leaves = [
        n.replace(".base_layer", "")
        for n, m in part.named_modules()
        if isinstance(m, nn.Linear | nn.Conv2d) and "lora_" not in n
    ]
    match wanted:
        case "xattn":
            names = [n for n in leaves if ".attn2." in n]
        case "xattn_strict":
            names = [n for n in leaves if n.endswith((".attn2.to_k", ".attn2.to_v"))]
        case "noxattn":
            names = [n for n in leaves if ".attn2." not in n]
        case "selfattn":
            names = [n for n in leaves if ".attn1." in n]
        case "attention":
            names = [n for n in leaves if ".self_attn." in n]
        case "mlp":
            names = [n for n in leaves if ".mlp." in n]
        case "full":
            names = leaves
        case suffixes:
            names = [n for n in leaves if any(n == s or n.endswith(f".{s}") for s in suffixes)]
    if not names:
        raise CoreError(
            "unknown_modules",
            f"no layer of this model ends in {wanted}: try a preset such as 'xattn', on the text encoder"
            " 'attention'",
            field=field,
        )
    return names


def lora_config(part: nn.Module, spec: LoraSpec | TextLoraSpec) -> LoraConfig:
    """peft's config for a spec; alpha omitted means scale 1."""
    return LoraConfig(
        r=spec.rank,
        lora_alpha=spec.alpha or spec.rank,
        target_modules=target_modules(part, spec.target_modules),
        init_lora_weights=True,
    )


def add_trained(model: Denoiser, spec: TrainSpec) -> list[nn.Parameter]:
    """Put on the model what the spec trains, and return its parameters."""
    match spec:
        case TextEncoderSpec() | AdvUnlearnSpec():
            return model.add_adapter(lora_config(model.pipe.text_encoder, spec.lora), "text_encoder")
        case FineTuneSpec():
            return model.add_adapter(lora_config(model.unet, spec.lora))
        case PruneSpec():
            names = target_modules(model.unet, spec.target_modules, "method.target_modules")
            return model.add_masks(names, spec.start, spec.relaxation)
    raise TypeError(f"nothing is known of what {type(spec).__name__} trains")


def exact_config(names: list[str], rank: int) -> LoraConfig:
    """A scale-1 adapter for a delta whose factors are known."""
    config: Any = LoraConfig(r=rank, lora_alpha=rank, target_modules=names)
    return config
