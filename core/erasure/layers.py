"""What a spec trains, put on the model."""

from torch import nn

from expunge.core.models import Denoiser
from expunge.core.specs import AdvUnlearnSpec, FineTuneSpec, PruneSpec, TextEncoderSpec, TrainSpec


def add_trained(model: Denoiser, spec: TrainSpec) -> list[nn.Parameter]:
    """Put on the model what the spec trains, and return its parameters."""
    match spec:
        case TextEncoderSpec() | AdvUnlearnSpec():
            return model.add_lora(spec.lora, "text_encoder")
        case FineTuneSpec():
            return model.add_lora(spec.lora)
        case PruneSpec():
            names = model.layers(spec.target_modules, field="method.target_modules")
            return model.add_masks(names, spec.start, spec.relaxation)
    raise TypeError(f"nothing is known of what {type(spec).__name__} trains")
