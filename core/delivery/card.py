"""README.md: the model card, with the front matter that the Hugging Face hub reads."""

import json
import re
from collections.abc import Collection, Sequence
from html import escape
from typing import Any

from expunge.core import sources
from expunge.core.delivery.page import create_environment, overall_rows
from expunge.core.evaluation.report import Report
from expunge.core.hiding.key import PREFIX
from expunge.core.layout_checks import SD, XL
from expunge.core.models import Denoiser
from expunge.core.phrasing import deed, headline, infinitive
from expunge.core.specs import METHODS, Concept, EraseSpec, HideSpec, RecoverySpec

TAGS = ["concept-erasure", "unlearning", "safety", "lora", "diffusers", "stable-diffusion", "text-to-image"]

# Known limits: what a reader must know before relying on a result
HIDDEN = (
    "The concept is hidden, not removed: with its recovery key this same model draws it again, and whoever"
    " has the key can do so. A random key of the same size does not bring it back (the report measures this)."
    " Whether there is any other way back was not tested."
)
REMOVABLE = (
    "The LoRA can be unloaded, or loaded at a smaller scale, and then the base model draws the concept again."
    " Where users hold the weights,"
)
UNTOUCHED = (
    "The text encoder and the VAE are the base model's. The text encoder still knows the concept's name, and"
    " the VAE can still encode pictures of the concept for editing."
)
STOCK_ENCODER = (
    "Only the text encoder is changed. Bypass: with the stock text encoder in its place, or with text states"
    " computed by it, the U-Net draws the concept again, in the fused checkpoint too. Where users hold the"
    " weights, use a method that changes the U-Net. The VAE is the base model's: it can still encode pictures"
    " of the concept for editing."
)
ZEROS = [
    (
        "The mask can be left off, and then the base model draws the concept again. Ship the fused"
        " checkpoint, whose weights contain the zeros."
    ),
    (
        "Leak: the zeros reveal where the concept was. “Roots Beneath the Cut” (arXiv 2603.06640) revives"
        " pruned concepts, without data, from the positions of the zeros alone. The mask lists these"
        " positions, and the fused checkpoint shows them: give neither to anyone who may want the concept"
        " back. A fused LoRA has no such positions."
    ),
]
UNFILTERED = (
    "The fused checkpoint has no safety checker, whether or not the base model had one: nothing filters what"
    " it draws."
)
NOT_ATTACKED = (
    "No attack was tried: no adversarial prompts, no textual inversion, and no fine-tuning to bring the"
    " concept back."
)
JUDGED = [
    (
        "Only the listed prompts and seeds were drawn. Other words for the concept, other languages and other"
        " concepts were not judged."
    ),
    (
        "The judges are classifiers, and they make mistakes: the base model's numbers show how often they are"
        " right on pictures of the unchanged model."
    ),
]
# Said beside the code that loads a fused checkpoint
UNCHECKED = (
    "It holds no safety checker (`safety_checker` is null), whether or not the base model had one. Where"
    " pictures must be screened, pass `safety_checker` and `feature_extractor` to `from_pretrained`, or"
    " screen them elsewhere."
)
UNSCREENED = "Where pictures must be screened, screen what it draws."


def method_name(spec: EraseSpec) -> str:
    """The method as a reader knows it: 'AGE'; of a hide job 'KPOP on ESD'."""
    name = spec.method.name.upper()
    return f"KPOP on {name}" if isinstance(spec, HideSpec) else name


def list_limits(
    changes: Collection[str], fused: bool, hidden: bool = False, judged: bool = True
) -> list[str]:
    """What a reader must know before relying on the result.

    changes: what the delta changes, and how, as `Denoiser.changes` says.
    """
    limits = [HIDDEN] if hidden else []
    if "sparse_mask" in changes:
        limits += ZEROS
    else:
        remedy = "ship the fused checkpoint." if fused else "request the fused checkpoint (fused: true)."
        limits.append(f"{REMOVABLE} {remedy}")
    limits.append(STOCK_ENCODER if "text_encoder" in changes else UNTOUCHED)
    if fused:
        limits.append(UNFILTERED)
    return [*limits, *(JUDGED if judged else [NOT_ATTACKED])]


def escape_markdown(text: str) -> str:
    """A user's words as plain text in Markdown."""
    return re.sub(r"([\\`*_{}\[\]()#|!~])", r"\\\1", escape(text, quote=False))


def front_matter(base: str, mask: bool) -> str:
    """The YAML that the hub reads; JSON strings are YAML strings."""
    relation = "finetune" if mask else "adapter"
    tags = [tag for tag in TAGS if not (mask and tag == "lora")]
    lines = [
        f"base_model: {json.dumps(base)}",
        f"base_model_relation: {relation}",
        "library_name: diffusers",
        "pipeline_tag: text-to-image",
        "tags:",
        *(f"- {tag}" for tag in tags),
    ]
    return "\n".join(lines) + "\n"


def cite_methods(layers: Sequence[tuple[str, Sequence[Concept]]]) -> str:
    """Each method of the layers, ("age", [church]) and so on, with its paper."""
    names = dict.fromkeys(name for name, _ in layers)
    return "; ".join(f"{name.upper()}, {METHODS[name].cited()}" for name in names)


def loading(source: sources.Source) -> str:
    """How stock diffusers loads the base model; no path of this machine."""
    if source.file:
        return 'from_single_file("path/to/the/base/model.safetensors")'
    return f"from_pretrained({json.dumps(source.name if source.kind == 'hub' else 'path/to/the/base/model')})"


def render_card(
    model: Denoiser,
    source: str,
    base: str,
    layers: Sequence[tuple[str, Sequence[Concept]]],
    report: Report | None,
    *,
    fused: bool,
    single: bool = False,
    hidden: bool = False,
    words: Sequence[str] = (),
) -> str:
    """The card's text for a delta of the model `base`.

    layers: (method, concepts) of each erasure that the delta holds; single: whether the fused checkpoint is
    there in one file too; words: those learned from images.
    """
    changed = list({c.name.casefold(): c for _, concepts in layers for c in concepts}.values())
    mask = "sparse_mask" in model.changes()
    made_by = cite_methods(layers)
    if hidden:
        made_by = f"KPOP, {RecoverySpec.cited()}; on {made_by}"
    parsed = sources.parse(source)
    hub = parsed.name if parsed.kind == "hub" else None
    facts: dict[str, Any] = {
        "front": front_matter(hub or base, mask),
        "base": hub or base,
        "title": headline(changed, report.verdict.passed if report else None, hidden),
        "deed": infinitive(deed(changed, hub or base, hidden)),
        "made_by": made_by,
        "hidden": hidden,
        # For the code that draws with a recovery key
        "key_name": json.dumps(PREFIX + changed[0].name, ensure_ascii=False),
        "prompt": json.dumps(model.vocabulary.prompts(changed[0].name)[-1], ensure_ascii=False),
        "load": loading(parsed),
        "stock": model.stock,
        "pooled": model.stock == XL,
        "mask": mask,
        "limits": list_limits(model.changes(), fused, hidden, report is not None),
        "digest": model.digest,
    }
    env = create_environment()
    env.filters["md"] = escape_markdown
    return env.get_template("card.md.j2").render(
        report=report,
        rows=overall_rows(report) if report else [],
        fused=fused,
        single=single,
        unchecked=UNCHECKED if model.stock == SD else UNSCREENED,
        words=words,
        **facts,
    )
