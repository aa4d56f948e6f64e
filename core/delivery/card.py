"""README.md: the model card, with the front matter that the Hugging Face hub reads."""

import json
import re
from collections.abc import Collection, Sequence
from html import escape
from typing import Any

from expunge.core import sources
from expunge.core.delivery.page import environment, table
from expunge.core.evaluation.report import Report
from expunge.core.hiding.key import PREFIX
from expunge.core.models import Denoiser
from expunge.core.phrasing import deed, headline, infinitive
from expunge.core.specs import METHODS, Concept, EraseSpec, HideSpec, RecoverySpec

TAGS = ["concept-erasure", "unlearning", "safety", "lora", "diffusers", "stable-diffusion", "text-to-image"]


HIDDEN = (
    "The concept is hidden, not gone: its recovery key draws it again from this very model, and whoever has"
    " the key can. A random key of the same size does not, which the report measures; that no other way back"
    " exists was not tried."
)


UNTOUCHED = (
    "The text encoder and the VAE are the base model's: the concept's name still has its meaning there, and"
    " pictures of it can still be encoded and edited."
)
STOCK_ENCODER = (
    "Only the text encoder is changed. Bypass: with the stock text encoder in its place, or with text states"
    " from it, the U-Net draws the concept again, fused or not. Use a method that changes the U-Net where"
    " users hold the weights. The VAE is the base model's too: pictures of the concept can still be encoded"
    " and edited."
)
ZEROS = [
    (
        "The mask can be left off: then the base model draws the concept again. Ship the fused checkpoint,"
        " whose weights hold the zeros."
    ),
    (
        "Leak: the zeros say where the concept was. “Roots Beneath the Cut” (arXiv 2603.06640) revives pruned"
        " concepts, without data, from the positions of the zeros alone; the mask lists them, and the fused"
        " checkpoint shows them. Give neither to whoever wants the concept back: a LoRA, fused, has no such"
        " positions."
    ),
]


JUDGED = [
    (
        "Only the listed prompts and seeds were drawn. Other words for the concept, other languages and other"
        " concepts were not judged."
    ),
    (
        "The judges are classifiers with errors of their own; the base model's row says how often they are"
        " right on pictures that were not touched."
    ),
]
UNFILTERED = (
    "The fused checkpoint has no safety checker, whatever the base model came with: nothing filters what it"
    " draws."
)


def method_name(spec: EraseSpec) -> str:
    return f"KPOP on {spec.method.name.upper()}" if isinstance(spec, HideSpec) else spec.method.name.upper()


UNCHECKED = (
    "It holds no safety checker (`safety_checker` is null), whether the base model came with one or not:"
    " where pictures must be screened, pass `safety_checker` and `feature_extractor` to `from_pretrained`, or"
    " screen them elsewhere."
)


def limits(changed: Collection[str], fused: bool, hidden: bool = False, judged: bool = True) -> list[str]:
    """What a reader must know before relying on the result; `changed` names what the delta changes, and
    how.
    """
    remedy = (
        "Ship the fused checkpoint where users hold the weights."
        if fused
        else "Ask for the fused checkpoint (fused: true) where users hold the weights."
    )
    removable = (
        "The LoRA can be unloaded, or loaded at a smaller scale: then the base model draws the concept"
        f" again. {remedy}"
    )
    return [
        *([HIDDEN] if hidden else []),
        *(ZEROS if "sparse_mask" in changed else [removable]),
        STOCK_ENCODER if "text_encoder" in changed else UNTOUCHED,
        *([UNFILTERED] if fused else []),
        (
            "No attack was tried: no adversarial prompt, no textual inversion, no fine-tuning that could"
            " bring the concept back."
        ),
        *(JUDGED if judged else []),
    ]


def markdown(text: str) -> str:
    """A user's words as plain text in Markdown."""
    return re.sub(r"([\\`*_{}\[\]()#|!~])", r"\\\1", escape(text, quote=False))


def front_matter(base: str, mask: bool) -> str:
    """YAML; JSON strings are YAML strings."""
    relation, tags = ("finetune", [t for t in TAGS if t != "lora"]) if mask else ("adapter", TAGS)
    lines = [
        f"base_model: {json.dumps(base)}",
        f"base_model_relation: {relation}",
        "library_name: diffusers",
        "pipeline_tag: text-to-image",
    ]
    return "\n".join([*lines, "tags:", *(f"- {tag}" for tag in tags)]) + "\n"


def made_by(layers: Sequence[tuple[str, Sequence[Concept]]]) -> str:
    """Which method took out what: ("age", [church]) for each layer."""
    names = dict.fromkeys(name for name, _ in layers)
    cited = [f"{name.upper()}, {METHODS[name].cited()}" for name in names]
    return "; ".join(cited)


def render(
    model: Denoiser,
    source: str,
    base: str,
    layers: Sequence[tuple[str, Sequence[Concept]]],
    report: Report | None,
    *,
    fused: bool,
    hidden: bool = False,
    words: Sequence[str] = (),
) -> str:
    """The card's text for a delta of the model `base`, made of one or several layers of (method,
    concepts).
    """
    env = environment()
    env.filters["md"] = markdown
    changed = list({c.name.casefold(): c for _, concepts in layers for c in concepts}.values())
    mask = "sparse_mask" in model.changes()
    hub = sources.parse(source).name if sources.parse(source).kind == "hub" else None
    facts: dict[str, Any] = {
        "front": front_matter(hub or base, mask),
        "base": hub or base,
        "title": headline(changed, report.verdict.passed if report else None, hidden),
        "deed": infinitive(deed(changed, hub or base, hidden)),
        "made_by": f"KPOP, {RecoverySpec.cited()}; on {made_by(layers)}" if hidden else made_by(layers),
        "hidden": hidden,
        "key_name": json.dumps(PREFIX + changed[0].name, ensure_ascii=False),
        "prompt": json.dumps(model.vocabulary.prompts(changed[0].name)[-1], ensure_ascii=False),
        "load_from": json.dumps(hub or "path/to/the/base/model"),
        "mask": mask,
        "limits": limits(model.changes(), fused, hidden, report is not None),
        "digest": model.digest,
    }
    return env.get_template("card.md.j2").render(
        report=report,
        rows=table(report) if report else [],
        fused=fused,
        unchecked=UNCHECKED,
        words=words,
        **facts,
    )
