"""What a client may ask for: the request specs, shared by api and worker. Imports no torch.

Every field says its meaning, unit, default and source; this text is the OpenAPI text.
"""

import unicodedata
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

MAX_CONCEPTS = 64
MAX_TEXT = 200


def clean_text(value: str) -> str:
    """NFC, trimmed; refuse empty text, control characters and direction overrides."""
    text = unicodedata.normalize("NFC", value).strip()
    if not text:
        raise ValueError("must not be empty: give the words a prompt would use, for example 'church'")
    if len(text) > MAX_TEXT:
        raise ValueError(f"has {len(text)} characters, at most {MAX_TEXT} are allowed: name the concept, not a whole text")
    bad = next(
        (
            c
            for c in text
            if unicodedata.category(c) in ("Cc", "Cs", "Co", "Cn") or c in "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
        ),
        None,
    )
    if bad is not None:
        raise ValueError(f"holds the control character U+{ord(bad):04X}: remove it")
    return text


def same(a: str, b: str) -> bool:
    """Whether two concept names are one, whatever their case and spacing."""
    return " ".join(a.casefold().split()) == " ".join(b.casefold().split())


Text = Annotated[str, AfterValidator(clean_text), Field(json_schema_extra={"minLength": 1, "maxLength": MAX_TEXT})]
Layers = Literal["xattn", "xattn_strict", "noxattn", "selfattn", "full"]


class Spec(BaseModel):
    """Strict base: an unknown field is an error, not a silent no-op."""

    model_config = ConfigDict(extra="forbid", validate_default=True, allow_inf_nan=False)


class Concept(Spec):
    """A concept to erase: a name, and how prompts may ask for it."""

    name: Text = Field(description="The words a prompt uses, for example 'church' or 'in noto style'.")
    synonyms: list[Text] = Field(
        default=[], max_length=16, description="Other words for the same concept; erased with it, never candidates for a target."
    )
    target: Text | None = Field(default=None, description="What the concept becomes (the anchor). Omitted: the method's own choice.")

    @model_validator(mode="after")
    def target_differs(self) -> Self:
        if self.target is not None and any(same(self.target, word) for word in (self.name, *self.synonyms)):
            raise ValueError(f"target: '{self.target}' equals the concept it should replace: choose another target or omit it")
        return self


def as_concept(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


ConceptLike = Annotated[Concept, BeforeValidator(as_concept, json_schema_input_type=Text | Concept)]


class LoraSpec(Spec):
    """The adapter that is trained and shipped (Hu et al., 2021)."""

    rank: int = Field(default=16, ge=1, le=256, description="Rank r of every adapter.")
    alpha: float | None = Field(default=None, gt=0, le=1024, description="Scale is alpha / rank; omitted: alpha = rank (scale 1).")
    target_modules: Layers | list[Annotated[str, Field(pattern=r"^[A-Za-z0-9_.]{1,200}$")]] = Field(
        default="xattn",
        description="Which linear layers get an adapter: xattn = to_q, to_k, to_v, to_out of cross-attention (ESD-x); xattn_strict = to_k, to_v; "
        "noxattn = every other linear layer (ESD-u); selfattn; full = all linear layers; or a list of module name suffixes.",
    )


class UnifiedEditSpec(Spec):
    """What UCE and RECE share."""

    guide: Annotated[str, Field(max_length=MAX_TEXT)] = Field(
        default="", description="Target when a concept names none. The authors' code: '' (or 'art' for styles)."
    )
    tokens: Literal["all", "last"] = Field(
        default="all",
        description="Which token columns of a prompt are edited: all of them (authors' older code) or the last before EOS (their newer code).",
    )
    preserve: list[Text] = Field(default=[], max_length=2048, description="Concepts whose keys and values are held (the paper's P).")
    erase_scale: float = Field(default=1.0, gt=0, le=1e4, description="Weight of each erased column (authors' default 1).")
    preserve_scale: float = Field(default=1.0, ge=0, le=1e4, description="Weight of each preserved column (authors' default 1).")
    ridge: float = Field(default=0.5, gt=0, le=1e6, description="λ, the pull towards the old weights (authors' default 0.5).")
    expand_prompts: bool = Field(
        default=True, description="Edit the concept inside the common prompt templates too, not only its bare name."
    )


class UceSpec(UnifiedEditSpec):
    """UCE, Unified Concept Editing (Gandikota et al., WACV 2024): closed form on to_k and to_v; exported as its exact LoRA."""

    name: Literal["uce"] = "uce"


class TimeSpec(Spec):
    """TIME (Orgad et al., ICCV 2023): closed form on to_v, token by token; exact LoRA. The alignment for erasing is a reconstruction."""

    name: Literal["time"] = "time"
    guide: Annotated[str, Field(max_length=MAX_TEXT)] = Field(
        default="", description="Target when a concept names none; '' = the prompt without it."
    )
    ridge: float = Field(default=0.1, gt=0, le=1e6, description="λ of Eq. 3, the pull towards the old weights (authors: 0.1).")
    with_to_k: bool = Field(default=True, description="Edit the keys too (the authors' option `with_to_k`).")


class ReceSpec(UnifiedEditSpec):
    """RECE (Gong et al., ECCV 2024): UCE, then closed-form rounds that erase what still brings the old values back; full-rank exact LoRA."""

    name: Literal["rece"] = "rece"
    rounds: int = Field(default=3, ge=1, le=50, description="Rounds after UCE's own edit (authors: 2 to 5, 3 for nudity).")
    adversarial_ridge: float = Field(
        default=0.1,
        gt=0,
        le=1e6,
        description="λ of the adversarial embedding's closed form (authors: 1e-1; 1e-3 for styles and hard objects).",
    )


class FineTuneSpec(Spec):
    """What every fine-tuned method shares: optimiser, adapters, latents."""

    steps: int = Field(
        default=100, ge=1, le=20_000, description="Optimiser steps on the adapters, for each concept. The papers take 1000 at batch 1."
    )
    batch_size: int = Field(default=4, ge=1, le=64, description="Latents a step. The papers take 1.")
    learning_rate: float = Field(
        default=1e-3, gt=0, le=1, description="Peak rate of Adam on the adapters. The papers take 1e-5 on whole matrices."
    )
    lora: LoraSpec = LoraSpec()
    space: Literal["eps", "x0"] = Field(
        default="eps",
        description="Where errors are measured: noise (the papers' notation) or predicted x0 (the authors' AP and AGE code: early, noisy steps dominate).",
    )
    latents: Literal["buffer", "fresh"] = Field(
        default="buffer",
        description="Where z_t comes from: a buffer of whole denoising trajectories, kept and reused; or a fresh partial denoising at every step (papers).",
    )
    trajectories: int = Field(default=8, ge=1, le=512, description="Trajectories a concept keeps in the buffer.")
    refresh_every: int = Field(
        default=0,
        ge=0,
        le=20_000,
        description="Steps between redraws of the buffer with the current model; 0 = draw once, with the frozen model.",
    )
    sampling_steps: int = Field(default=20, ge=2, le=200, description="DDIM steps of a trajectory. The papers take 50.")
    guidance_scale: float = Field(default=3.0, ge=1, le=30, description="Classifier-free guidance while drawing trajectories (papers: 3).")
    checkpoint_every: int = Field(default=25, ge=1, le=20_000, description="Steps between checkpoints.")


class EsdSpec(FineTuneSpec):
    """ESD, Erasing Concepts from Diffusion Models (Gandikota et al., ICCV 2023)."""

    name: Literal["esd"] = "esd"
    eta: float = Field(
        default=1.0,
        ge=0,
        le=20,
        description="Negative guidance: target = eps_0 - eta (eps_c - eps_0); 1.0 is the paper's (newer public code calls this 2.0).",
    )


class NaiveSpec(FineTuneSpec):
    """The naive output-based loss (Eq. 7/13): map to a target, hold a neutral or preserved concept."""

    name: Literal["naive"] = "naive"
    eta: float = Field(
        default=0.0, ge=0, le=20, description="Push away from the concept; 0 is Eq. 7 as printed, 1 the published code's default."
    )
    preserve_weight: float = Field(default=0.1, ge=0, le=1e4, description="λ of Eq. 7, the weight of what must stay (published code: 0.1).")


class AllButOneSpec(FineTuneSpec):
    """All but One (Hong et al., AAAI 2024), a reconstruction: edit the guidance term, hold the unconditional score."""

    name: Literal["all_but_one"] = "all_but_one"
    eta: float = Field(
        default=1.0, ge=0, le=20, description="Without an alternative concept (target), the guidance term becomes -eta times itself."
    )
    drift_weight: float = Field(default=1.0, ge=0, le=1e4, description="Weight of the unconditional score's drift (not published: ours).")


class ApSpec(FineTuneSpec):
    """AP, Adversarial Preservation (Bui et al., NeurIPS 2024), Eq. 9-12: hold the concepts that would suffer most."""

    name: Literal["ap"] = "ap"
    variant: Literal["paper", "authors_code"] = Field(
        default="paper",
        description="paper: the search climbs the whole difference. authors_code: errors in x0, gradient through the trained model alone.",
    )
    eta: float = Field(
        default=1.0, ge=0, le=20, description="Negative guidance of the erasing term; 0 is Eq. 9 as printed, 1 the authors' code."
    )
    preserve_weight: float = Field(default=1.0, ge=0, le=1e4, description="λ of Eq. 9 (authors: 1).")
    search: Literal["gumbel", "pgd"] = Field(
        default="gumbel", description="gumbel: over the candidates, Eq. 10-12. pgd: normalised gradient ascent on a continuous text state."
    )
    candidates: int = Field(
        default=20, ge=2, le=2000, description="Size of the search space: the nearest concepts. The authors take 100 centres of 1000."
    )
    concept_space: list[Text] | None = Field(default=None, max_length=4096, description="Vocabulary to search; omitted: the model's own.")
    temperature: float = Field(default=2.0, gt=0, le=100, description="τ of the Gumbel-softmax, Eq. 11 (authors: 2).")
    hard: bool = Field(default=True, description="Straight-through one-hot, Eq. 12; false: a soft mixture.")
    search_learning_rate: float = Field(
        default=1e-2, gt=0, le=10, description="Rate of the search: Adam on π (authors: 1e-2), or of the ascent."
    )
    search_every: int = Field(default=2, ge=1, le=1000, description="Weight steps for each search step (authors: 1).")


class AgeSpec(FineTuneSpec):
    """AGE, Fantastic Targets for Concept Erasure (Bui et al., ICLR 2025), Eq. 14: an adversarially found target."""

    name: Literal["age"] = "age"
    learning_rate: float = Field(
        default=2e-3, gt=0, le=1, description="Peak rate of Adam on the adapters. The authors take 1e-5 on whole matrices."
    )
    variant: Literal["paper", "authors_code"] = Field(
        default="paper",
        description="paper: Eq. 14, both terms drive the search. authors_code: errors in x0 and the target detached, so that only the preservation term drives it.",
    )
    eta: float = Field(
        default=1.0,
        ge=0,
        le=20,
        description="Negative guidance away from the concept in the erasing term. 0 is Eq. 14 as printed, 1 the authors' code; "
        "without it, look-alikes among the targets leave a concept half drawn.",
    )
    preserve_weight: float = Field(
        default=3.0, ge=0, le=1e4, description="λ of Eq. 14, the weight of preserving the target (paper and authors: 1)."
    )
    candidates: int = Field(
        default=20, ge=2, le=2000, description="Size of the search space: the nearest concepts of the space. The authors take 100 of 1000."
    )
    concept_space: list[Text] | None = Field(default=None, max_length=4096, description="Vocabulary to search; omitted: the model's own.")
    temperature: float = Field(
        default=0.1, gt=0, le=100, description="τ of the Gumbel-softmax, Eq. 11 (authors: 0.1 for objects, 2 for nudity)."
    )
    hard: bool = Field(default=True, description="Straight-through one-hot, Eq. 12; false: a soft mixture (authors' choice for artists).")
    search_learning_rate: float = Field(default=1e-2, gt=0, le=10, description="Adam rate of the logits π (authors: 1e-2).")
    search_every: int = Field(default=2, ge=1, le=1000, description="Weight steps for each search step (authors: 1).")


AnyMethod = UceSpec | TimeSpec | ReceSpec | NaiveSpec | EsdSpec | AllButOneSpec | ApSpec | AgeSpec
MethodSpec = Annotated[AnyMethod, Field(discriminator="name")]
MethodName = Literal["uce", "time", "rece", "naive", "esd", "all_but_one", "ap", "age"]
METHODS: dict[str, type[AnyMethod]] = {
    "uce": UceSpec, "time": TimeSpec, "rece": ReceSpec, "naive": NaiveSpec, "esd": EsdSpec, "all_but_one": AllButOneSpec, "ap": ApSpec,
    "age": AgeSpec,
}  # fmt: skip


def as_method(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


MethodLike = Annotated[MethodSpec, BeforeValidator(as_method, json_schema_input_type=MethodName | MethodSpec)]


class Thresholds(Spec):
    """What a report must reach for the verdict 'pass'; an omitted threshold is not asked for. All are shares in [0, 1]."""

    esr1: float | None = Field(default=0.95, ge=0, le=1, description="At least this erasing success rate at top-1.")
    esr5: float | None = Field(default=None, ge=0, le=1, description="At least this erasing success rate at top-5.")
    psr1_ratio: float | None = Field(
        default=0.9, ge=0, le=2, description="At least this share of the base model's preservation success rate at top-1."
    )


class EvaluationSpec(Spec):
    """How a sanitized model is judged (field's metrics: ESR-k, PSR-k, CLIP score, NER-τ, LPIPS)."""

    enabled: bool = Field(default=True, description="false: deliver without a verdict.")
    erased_images: int = Field(default=24, ge=1, le=1000, description="Pictures for each erased concept, over its prompt templates.")
    preserved_concepts: list[Text] | None = Field(
        default=None,
        max_length=512,
        description="Concepts for PSR; omitted: the nearest neighbours of the erased ones and strangers, half and half.",
    )
    preserved_count: int = Field(default=24, ge=2, le=512, description="How many preserved concepts when none are named.")
    preserved_images: int = Field(default=2, ge=1, le=500, description="Pictures for each preserved concept.")
    sampling_steps: int = Field(default=25, ge=2, le=200, description="DDIM steps.")
    guidance_scale: float = Field(default=7.5, ge=1, le=30, description="Classifier-free guidance.")
    seed: int = Field(default=0, ge=0, lt=2**31, description="First seed; base and sanitized model draw with the same seeds.")
    nudity: bool = Field(default=False, description="Run NudeNet on the pictures and store its raw detections (NER-τ).")
    thresholds: Thresholds = Thresholds()


class JobSpec(Spec):
    """What every job takes."""

    model: str = Field(
        default="emoji", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$", description="A registered model's id; GET /models lists them."
    )
    labels: dict[str, str] = Field(
        default={}, max_length=16, description="Up to 16 labels of your own; keys up to 64, values up to 512 characters."
    )
    queue_timeout_s: int | None = Field(
        default=None, ge=1, le=30 * 86400, description="Expire the job when it has not started after this many seconds."
    )
    run_timeout_s: int | None = Field(
        default=None, ge=1, le=7 * 86400, description="Fail the job when it has run this many seconds in all."
    )

    @field_validator("labels")
    @classmethod
    def bounded_labels(cls, labels: dict[str, str]) -> dict[str, str]:
        for key, value in labels.items():
            if not 1 <= len(key) <= 64 or len(value) > 512:
                raise ValueError(f"label '{key[:64]}' is too long: keys have 1 to 64 characters, values at most 512")
            if not (key + value).isprintable():
                raise ValueError(f"label '{key[:64]!a}' holds a control character: remove it")
        return labels


class EraseSpec(JobSpec):
    """Take concepts out of a model."""

    concepts: list[ConceptLike] = Field(
        min_length=1, max_length=MAX_CONCEPTS, description="What to erase: names, or objects with synonyms and a target."
    )
    preserve: list[Text] = Field(
        default=[],
        max_length=512,
        description="Concepts that must stay as they are; used by the methods that take them, and always judged.",
    )
    method: MethodLike = Field(default=AgeSpec(), description="A method's name, or an object with its parameters; omitted: age.")
    seed: int = Field(default=0, ge=0, lt=2**31, description="The same spec and seed give the same bytes (CPU).")
    fused: bool = Field(
        default=False, description="Deliver a fused checkpoint too: a LoRA delta can be unloaded, a fused checkpoint cannot."
    )
    evaluation: EvaluationSpec = EvaluationSpec()

    @model_validator(mode="after")
    def consistent(self) -> Self:
        words: list[str] = []
        for i, concept in enumerate(self.concepts):
            for word in (concept.name, *concept.synonyms):
                if any(same(word, seen) for seen in words):
                    raise ValueError(f"concepts[{i}]: '{word}' is named twice: remove one")
                words.append(word)
        for field, kept in (("preserve", self.preserve), ("method.preserve", getattr(self.method, "preserve", []))):
            clash = next((k for k in kept if any(same(k, w) for w in words)), None)
            if clash is not None:
                raise ValueError(f"{field}: '{clash}' is also to be erased: remove it from one of the two lists")
        for i, concept in enumerate(self.concepts):
            if concept.target is not None and any(same(concept.target, w) for w in words):
                raise ValueError(f"concepts[{i}].target: '{concept.target}' is itself to be erased: choose another target")
        return self


class EvaluateSpec(JobSpec):
    """Judge a finished job's model, or an uploaded delta, or the base model alone."""

    job_id: Annotated[str, Field(pattern=r"^[0-9a-f-]{36}$")] | None = Field(
        default=None, description="A finished erase job whose delta is judged."
    )
    artifact_id: Annotated[str, Field(pattern=r"^[0-9a-f-]{36}$")] | None = Field(
        default=None, description="An uploaded delta (POST /artifacts) to judge."
    )
    concepts: list[ConceptLike] = Field(
        default=[], max_length=MAX_CONCEPTS, description="The erased concepts; omitted with job_id: that job's."
    )
    evaluation: EvaluationSpec = EvaluationSpec()

    @model_validator(mode="after")
    def one_source(self) -> Self:
        if (self.job_id is None) == (self.artifact_id is None):
            raise ValueError("give exactly one of job_id (a finished job) and artifact_id (an uploaded delta)")
        if self.artifact_id is not None and not self.concepts:
            raise ValueError("concepts: an uploaded delta does not say what it erases: name the concepts to judge")
        return self
