"""LoRA files as diffusers, peft and kohya's tools save them: every spelling of their tensors read into one
form.

A layer's factors A (r, in, …) and B (out, r, …) stand for scale B A, the scale being alpha / r, or alpha /
sqrt(r) with rslora. alpha comes from the layer's alpha tensor, else from the adapter's settings in the
metadata, else it is r.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from expunge.core.delta_format import COMPONENTS, adapter_config, kohya
from expunge.core.delta_format.adapter_config import CONVERT, DORA, covers
from expunge.core.delta_format.errors import BadDelta, Fault
from expunge.core.delta_format.metadata import ADAPTER_SETTINGS

Shapes = Mapping[str, Sequence[int]]

# Before the layer's name, as diffusers saves it; without "text_model." it is read too
PREFIXES = {"unet": "unet.", "text_encoder": "text_encoder.text_model."}
SAVE = "Send a LoRA as diffusers' save_lora_weights or peft's get_peft_model_state_dict writes it."
FACTOR = re.compile(
    r"(?P<layer>[A-Za-z0-9_.]+?)"
    r"\.(?:lora_(?P<peft>[AB])(?:\.[A-Za-z0-9_-]+)?|(?:lora|lora_linear_layer)\.(?P<old>down|up))\.weight"
)
PROCESSOR = re.compile(
    r"(?P<stem>[A-Za-z0-9_.]+)\.to_(?P<what>q|k|v|out)_lora(?P<rest>\.(?:down|up)\.weight|\.alpha)"
)
ALPHA = re.compile(r"(?P<layer>[A-Za-z0-9_.]+?)(?:\.lora|\.lora_linear_layer)?\.alpha")
OTHER_ADAPTERS = {
    r".*(lora_magnitude_vector|dora_scale)": DORA,
    r".*\.lora_[AB](\.\w+)?\.bias|.*\.lora\.(up|down)\.bias": (
        "is a bias, which a plain LoRA does not have",
        "Train with lora_bias=False.",
    ),
    r".*\.(lokr|hada|oft|boft|ia3|diff|diff_b|w_norm|b_norm)(_|\.|$)": (
        "belongs to another adapter than a LoRA",
        "Train a LoRA, or extract one from it.",
    ),
    r".*\.lora_mid\.": (
        "is the middle factor of a LoCon in Tucker's form, of which a plain LoRA has none",
        "Train with use_cp or use_tucker off, or extract a LoRA.",
    ),
    r".*lora_embedding_[AB]": (
        "trains the words' embeddings, which are neither the U-Net's nor the text encoder's layers",
        "Leave them out.",
    ),
    r"text_encoder_2\.": (
        "belongs to another architecture than Stable Diffusion 1.x and 2.x: to the second text encoder of XL,"
        " which no LoRA may change here",
        "Send the U-Net's part alone, for a Stable Diffusion XL model that 'expunge models' lists.",
    ),
    r"(text_encoder_3|transformer|transformer_2)\.": (
        "belongs to another architecture, not to Stable Diffusion 1.x, 2.x or XL",
        "Send a LoRA of one of the models that 'expunge models' lists.",
    ),
}
"""Tensors of other files, by the pattern of their names: what they are, and what to do."""


@dataclass(frozen=True)
class Pair:
    """A layer's factors, by the names they have in the file, and what scales them."""

    down: str
    up: str
    rank: int
    alpha: float
    rslora: bool = False

    @property
    def scale(self) -> float:
        return self.alpha / (self.rank**0.5 if self.rslora else self.rank)


def tensor_name(component: str, layer: str, factor: str) -> str:
    """Of a layer's factor "A" or "B", as diffusers saves it."""
    return f"{PREFIXES[component]}{layer}.lora_{factor}.weight"


def parse_name(name: str) -> tuple[str, str, str]:
    """(component or "", layer, "A" | "B" | "alpha") of a tensor's name, in any spelling that diffusers reads
    or kohya writes.

    Raises: BadDelta where no LoRA has such a tensor.
    """
    for pattern, (what, remedy) in OTHER_ADAPTERS.items():
        if re.match(pattern, name):
            raise BadDelta(Fault.TENSORS, name, what, remedy)
    if kohya.is_kohya(name):
        return kohya.parse_name(name)

    # Take off what stands before the layer.
    component = next((c for c in COMPONENTS if name.startswith(f"{c}.")), "")
    inner = name.removeprefix(f"{component}.").removeprefix("base_model.model.").replace(".processor.", ".")
    if not component and inner.startswith(tuple(f"{c}." for c in COMPONENTS)):
        component, _, inner = inner.partition(".")

    # Old attention processors have no layers of their own: rename theirs to the attention's.
    if old := PROCESSOR.fullmatch(inner):
        leaf = f"{old['what']}_proj" if component == "text_encoder" else f"to_{old['what']}"
        leaf = "to_out.0" if leaf == "to_out" else leaf
        inner = f"{old['stem']}.{leaf}{'' if old['rest'] == '.alpha' else '.lora'}{old['rest']}"

    if match := FACTOR.fullmatch(inner):
        role = match["peft"] or {"down": "A", "up": "B"}[match["old"]]
    elif match := ALPHA.fullmatch(inner):
        role = "alpha"
    else:
        why = "is not named unet.<layer>.lora_A.weight or lora_B.weight (or text_encoder.<layer>.…)"
        raise BadDelta(Fault.TENSORS, name, why, SAVE)
    return component, flat(component, match["layer"]), role


def flat(component: str, layer: str) -> str:
    """A text encoder's layer without the prefix that some versions of transformers give it."""
    return layer.removeprefix("text_model.") if component == "text_encoder" else layer


def read(metadata: Mapping[str, str], shapes: Shapes, value: Callable[[str], float]) -> dict[str, Pair]:
    """Layer, as `unet.…` or `text_encoder.…`, -> its pair of factors.

    `value` returns the number that a tensor of one element holds. Raises: BadDelta.
    """
    if not shapes:
        raise BadDelta(Fault.TENSORS, None, "holds no tensors", SAVE)

    # Group the tensors by layer.
    layers: dict[tuple[str, str], dict[str, str]] = {}
    for name in shapes:
        component, layer, role = parse_name(name)
        names = layers.setdefault((component, layer), {})
        if role in names:
            why = f"is the same factor as '{names[role][:200]}'"
            raise BadDelta(Fault.TENSORS, name, why, "Leave one of the two out.")
        names[role] = name
    nameless = [names for (component, _), names in layers.items() if not component]
    if nameless and len(nameless) < len(layers):
        why = "has no component before its layer, as others have"
        remedy = "Name every tensor unet.… or text_encoder.…."
        raise BadDelta(Fault.TENSORS, next(iter(nameless[0].values())), why, remedy)

    # Each layer's factors must have one rank, and its alpha may be given once.
    settings = None
    if ADAPTER_SETTINGS in metadata:
        settings = adapter_config.parse_settings(metadata[ADAPTER_SETTINGS])
    pairs = {}
    for (component, layer), names in layers.items():
        whole = f"{component or 'unet'}.{layer}"
        rank = rank_of(whole, names, shapes)
        alpha, rslora = float(rank), False
        if settings is not None:
            alpha, rslora = alpha_in(settings, component, layer, rank)
        if "alpha" in names:
            if settings is not None:
                why = "gives alpha, which the metadata give too"
                raise BadDelta(Fault.TENSORS, names["alpha"], why, "Leave one of the two out.")
            alpha = number_in(names["alpha"], shapes, value)
        pairs[whole] = Pair(names["A"], names["B"], rank, alpha, rslora)
    return pairs


def rank_of(layer: str, names: Mapping[str, str], shapes: Shapes) -> int:
    """r, of the factors (r, in, …) and (out, r, …) of a layer. Raises: BadDelta."""
    if "A" not in names or "B" not in names:
        raise BadDelta(Fault.TENSORS, layer, "has only one of lora_A and lora_B", SAVE)
    down, up = list(shapes[names["A"]]), list(shapes[names["B"]])
    if len(down) < 2 or len(up) < 2 or down[0] != up[1] or 0 in (*down, *up):
        why = f"has lora_A {down} and lora_B {up}, not (r, in) and (out, r) of one rank"
        raise BadDelta(Fault.TENSORS, layer, why, SAVE)
    return down[0]


def number_in(name: str, shapes: Shapes, value: Callable[[str], float]) -> float:
    """The finite number that a tensor holds. Raises: BadDelta."""
    if list(shapes[name]) not in ([], [1]):
        raise BadDelta(Fault.TENSORS, name, f"is {list(shapes[name])}, not one number", SAVE)
    found = value(name)
    if not abs(found) < float("inf"):
        raise BadDelta(Fault.TENSORS, name, "is not a finite number", SAVE)
    return found


def alpha_in(settings: Mapping[str, Any], component: str, layer: str, rank: int) -> tuple[float, bool]:
    """(alpha, rslora) of a layer by the adapter's settings, which must agree with these tensors.

    Raises: BadDelta.
    """
    prefix = f"{component}." if component else ""
    where = f"{ADAPTER_SETTINGS}.{prefix}"
    inner = {name.removeprefix(prefix): value for name, value in settings.items() if name.startswith(prefix)}

    targets = inner.get("target_modules", [])
    if not isinstance(targets, str) and not any(covers(flat(component, name), layer) for name in targets):
        why = f"leaves out the layer '{layer[:200]}'"
        raise BadDelta(Fault.SETTINGS, f"{where}target_modules", why, CONVERT)

    default_rank = inner.get("r", adapter_config.DEFAULT_RANK)
    stated = first_covering(inner.get("rank_pattern", {}), component, layer, default_rank)
    if stated != rank:
        why = f"says rank {stated} for the layer '{layer[:200]}', whose lora_A has rank {rank}"
        raise BadDelta(Fault.SETTINGS, f"{where}r", why, CONVERT)

    default_alpha = inner.get("lora_alpha", adapter_config.DEFAULT_RANK)
    alpha = first_covering(inner.get("alpha_pattern", {}), component, layer, default_alpha)
    return float(alpha), bool(inner.get("use_rslora", False))


def first_covering(pattern: Mapping[str, Any], component: str, layer: str, default: Any) -> Any:
    """The value of a pattern's first name that covers the layer, as peft looks it up."""
    for name, value in pattern.items():
        if covers(flat(component, name), layer):
            return value
    return default


def misfits(
    pairs: Mapping[str, Pair], shapes: Shapes, weights: Shapes, model: str = "the model"
) -> dict[str, str]:
    """Layer -> why it does not fit, of those that a model with these weights (out, in, …) does not have, or
    has with other shapes.
    """
    wrong = {}
    for layer, pair in pairs.items():
        down, up = list(shapes[pair.down]), list(shapes[pair.up])
        if layer not in weights:
            wrong[layer] = f"{model} has no such layer"
            continue
        weight = list(weights[layer])
        # B A has the weight's shape; where it is a convolution, B's own kernel is 1 x 1.
        fits = len(up) == len(weight) and [up[0], *down[1:]] == weight and all(n == 1 for n in up[2:])
        if not fits:
            wrong[layer] = f"lora_A {down} and lora_B {up} do not fit {model}'s weight {weight}"
    return wrong


def peft_settings(pairs: Mapping[str, Pair]) -> dict[str, Any]:
    """The settings that peft needs to wear these pairs, whose layers are named as here: rank and alpha of
    each, and nothing else that a file may say.
    """
    out: dict[str, Any] = {}
    for component in COMPONENTS:
        prefix = f"{component}."
        own = {layer.removeprefix(prefix): p for layer, p in pairs.items() if layer.startswith(prefix)}
        if own:
            first = next(iter(own.values()))
            values = {
                "r": first.rank,
                "lora_alpha": first.alpha,
                "rank_pattern": {layer: pair.rank for layer, pair in own.items() if pair.rank != first.rank},
                "alpha_pattern": {
                    layer: pair.alpha for layer, pair in own.items() if pair.alpha != first.alpha
                },
                "target_modules": sorted(own),
                "use_rslora": first.rslora,
            }
            out |= {f"{component}.{name}": value for name, value in values.items()}
    return out
