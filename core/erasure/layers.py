"""What a spec trains, put on the model."""

from torch import nn

from expunge.core.models import Denoiser
from expunge.core.specs import LoraSpec, PruneSpec, TextLoraSpec, TrainSpec


def add_trained(model: Denoiser, spec: TrainSpec) -> list[nn.Parameter]:
    """Put on the model what the spec trains, and return its parameters.

    Raises: TypeError where the spec has neither a mask nor a LoRA in its field `lora`.
    """
    if isinstance(spec, PruneSpec):
        names = model.layers(spec.target_modules, field="method.target_modules")
        return model.add_masks(names, spec.start, spec.relaxation)
    match getattr(spec, "lora", None):
        case TextLoraSpec() as lora:
            return model.add_lora(lora, "text_encoder")
        case LoraSpec() as lora:
            return model.add_lora(lora)
    raise TypeError(f"nothing is known of what {type(spec).__name__} trains")
