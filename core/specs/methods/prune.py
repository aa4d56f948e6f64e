"""The parameters of pruning."""

from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import Field, model_validator

from expunge.core.specs.fine_tuning import FineTuneSpec, LayerNames, Layers, TrainSpec
from expunge.core.specs.methods.esd import EsdSpec

if TYPE_CHECKING:
    PrunedMethod = FineTuneSpec  # every method that `prunes`: the registry says which


class PruneSpec(TrainSpec):
    """Pruning with an output-based loss (P-ESD and P-AC, Yang et al., 2024), a reconstruction: learns a mask
    m of zeros and ones, W' = W * m.

    Delivers `sparse_mask.safetensors` and, because diffusers cannot load a mask, always the fused
    checkpoint. Both reveal where the zeros are.
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
            "The output-based method whose loss trains the mask: its name, or an object with its"
            " parameters. Omitted: esd. Leave out what prune sets itself (steps, learning_rate,"
            " checkpoint_every) and what a mask does not have (lora)."
        ),
    )
    learning_rate: float = Field(
        default=0.1,
        gt=0,
        le=10,
        description="Peak learning rate of Adam on the mask's logits (ours; not published).",
    )
    target_modules: Layers | LayerNames = Field(
        default="xattn",
        description=(
            "Which layers' weights may be pruned, as in `lora.target_modules` of the other methods. Biases"
            " are never pruned (ours)."
        ),
    )
    relaxation: Literal["straight_through", "hard_concrete"] = Field(
        default="straight_through",
        description=(
            "How a mask of zeros and ones gets a gradient. straight_through: [a > 0] forward and"
            " sigmoid(a) backward. hard_concrete: the distribution of Louizos et al., 2018. The paper does"
            " not say which it uses."
        ),
    )
    start: float = Field(
        default=3.0,
        gt=0,
        le=20,
        description="Initial value of all logits; a weight whose logit falls below zero is pruned (ours).",
    )
    sparsity_weight: float = Field(
        default=0.1,
        ge=0,
        le=1e6,
        description=(
            "β, the weight of the expected share of zeros: the larger it is, the fewer weights are pruned"
            " (ours)."
        ),
    )
    preserve_weight: float = Field(
        default=1.0,
        ge=0,
        le=1e4,
        description=(
            "λ_p, the weight of preserving the predictions of retained concepts, in addition to the loss's"
            " own terms (ours)."
        ),
    )
    retain_concepts: int = Field(
        default=20,
        ge=1,
        le=2000,
        description=(
            "Number of concepts of the model's vocabulary to preserve beside the job's `preserve` and the"
            " empty prompt: half nearest neighbours, half random others (ours)."
        ),
    )

    @model_validator(mode="after")
    def nothing_ignored(self) -> Self:
        fields = type(self.method).model_fields
        for name in self.unread:
            if getattr(self.method, name) != fields[name].default:
                instead = "target_modules" if name == "lora" else name
                raise ValueError(
                    f"method.{name}: not used by prune, which trains a mask: omit it, or set prune's own"
                    f" {instead} beside method"
                )
        return self
