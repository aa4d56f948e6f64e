"""The parameters of pruning."""

from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import Field, model_validator

from expunge.core.specs.fine_tuning import FineTuneSpec, LayerNames, Layers, TrainSpec
from expunge.core.specs.methods.esd import EsdSpec

if TYPE_CHECKING:
    PrunedMethod = FineTuneSpec  # every method that `prunes`: the registry says which


class PruneSpec(TrainSpec):
    """Pruning with an output-based loss (P-ESD and P-AC, Yang et al., 2024), a reconstruction: W' = W * m
    with a learned mask m of zeros and ones.

    Delivers `sparse_mask.safetensors` and, as diffusers cannot load a mask, always the fused checkpoint. Both
    show where the zeros are.
    """

    citation = "Pruning for Robust Concept Erasing in Diffusion Models, Yang et al., 2024"
    reconstruction = True
    delta = "sparse_mask"
    unread: ClassVar[tuple[str, ...]] = ("steps", "learning_rate", "checkpoint_every", "lora")
    """Fields of the inner method that pruning does not read."""

    name: Literal["prune"] = "prune"
    method: "PrunedMethod" = Field(
        default=EsdSpec(),
        description=(
            "The output-based method whose loss the mask descends: its name, or an object with its"
            " parameters; omitted: esd. What prune sets itself (steps, learning_rate, checkpoint_every) or"
            " has no use for (lora) must be left out here."
        ),
    )
    learning_rate: float = Field(
        default=0.1, gt=0, le=10, description="Peak rate of Adam on the mask's logits (ours; not published)."
    )
    target_modules: Layers | LayerNames = Field(
        default="xattn",
        description=(
            "Whose weights may be pruned, as in `lora.target_modules` of the other methods; biases never are"
            " (ours)."
        ),
    )
    relaxation: Literal["straight_through", "hard_concrete"] = Field(
        default="straight_through",
        description=(
            "How a mask of zeros and ones gets a gradient: [a > 0] forward and sigmoid(a) backward, or the"
            " hard-concrete distribution of Louizos et al., 2018. Which of them the paper uses is not"
            " published."
        ),
    )
    start: float = Field(
        default=3.0, gt=0, le=20, description="Where all logits begin; below zero a weight is pruned (ours)."
    )
    sparsity_weight: float = Field(
        default=0.1,
        ge=0,
        le=1e6,
        description=(
            "β, the weight of the expected share of zeros: the larger, the fewer weights are pruned (ours)."
        ),
    )
    preserve_weight: float = Field(
        default=1.0,
        ge=0,
        le=1e4,
        description=(
            "λ_p, the weight of holding the predictions of retained concepts, beside the loss's own terms"
            " (ours)."
        ),
    )
    retain_concepts: int = Field(
        default=20,
        ge=1,
        le=2000,
        description=(
            "Concepts of the model's vocabulary that are held beside the job's `preserve` and the empty"
            " prompt: the nearest and strangers, half and half (ours)."
        ),
    )

    @model_validator(mode="after")
    def nothing_ignored(self) -> Self:
        fields = type(self.method).model_fields
        for name in self.unread:
            if getattr(self.method, name) != fields[name].default:
                remedy = (
                    "masks have no rank: name layers in target_modules"
                    if name == "lora"
                    else f"set {name} beside method instead"
                )
                raise ValueError(f"method.{name}: the mask is trained by prune's own settings: {remedy}")
        return self
