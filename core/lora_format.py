"""LoRA files as diffusers and peft save them: every spelling of their tensors read into one form. Imports no
torch: the api reads uploads too.

A layer's factors A (r, in, …) and B (out, r, …) stand for scale B A, the scale being alpha / r, or alpha /
sqrt(r) with rslora. alpha is what a tensor of the layer says, else what the adapter's settings in the
metadata say, else r.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from expunge.core import adapter_config
from expunge.core.adapter_config import CONVERT, DORA, NotPlain, covers

SAVE = "Send a LoRA as diffusers' save_lora_weights or peft's get_peft_model_state_dict writes it."
HALF = re.compile(
    r"(?P<layer>[A-Za-z0-9_.]+?)\.(?:lora_(?P<peft>[AB])(?:\.(?P<adapter>[A-Za-z0-9_-]+))?|(?:lora|lora_linear_layer)\.(?P<old>down|up))\.weight"
)
PROCESSOR = re.compile(
    r"(?P<stem>[A-Za-z0-9_.]+)\.to_(?P<what>q|k|v|out)_lora(?P<rest>\.(?:down|up)\.weight|\.alpha)"
)
ALPHA = re.compile(r"(?P<layer>[A-Za-z0-9_.]+?)(?:\.lora|\.lora_linear_layer)?\.alpha")
OTHERS = {
    r"lora_(unet|te|te1|te2)_": (
        "is named as kohya's trainers name a LoRA",
        (
            "Load it with diffusers' load_lora_weights and save what the U-Net then wears:"
            " pipe.unet.save_lora_adapter(folder, 'default_0')."
        ),
    ),
    r".*(lora_magnitude_vector|dora_scale)": DORA,
    r".*\.lora_[AB](\.\w+)?\.bias|.*\.lora\.(up|down)\.bias": (
        "is a bias, which a plain LoRA has not",
        "Train with lora_bias=False.",
    ),
    r".*\.(lokr|hada|oft|boft|ia3|diff|diff_b|w_norm|b_norm)(_|\.|$)": (
        "is of another adapter than a LoRA",
        "Train a LoRA, or extract one from it.",
    ),
    r".*lora_embedding_[AB]": (
        "trains the words' embeddings, which are neither the U-Net's nor the text encoder's layers",
        "Leave them out.",
    ),
    r"(text_encoder_2|text_encoder_3|transformer|transformer_2)\.": (
        "belongs to another architecture, not to Stable Diffusion 1.x or 2.x",
        "Send a LoRA of one of the models that 'expunge models' lists.",
    ),
}
"""What other files hold, by how its names look: what it is, and what to do."""


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


def spelled(name: str) -> tuple[str, str, str]:
    """(part of the model, layer, "A" | "B" | "alpha") of a tensor's name. NotPlain where no LoRA has it."""
    for pattern, (what, remedy) in OTHERS.items():
        if re.match(pattern, name):
            raise NotPlain(name, what, remedy)
    component = next((c for c in ("unet", "text_encoder") if name.startswith(f"{c}.")), "")
    inner = name.removeprefix(f"{component}.").removeprefix("base_model.model.").replace(".processor.", ".")
    if not component and inner.startswith(("unet.", "text_encoder.")):
        component, _, inner = inner.partition(".")
    if old := PROCESSOR.fullmatch(inner):
        layer = (
            {"unet": "to_", "": "to_"}.get(component, "")
            + old["what"]
            + ("_proj" if component == "text_encoder" else "")
        )
        leaf = "to_out.0" if layer == "to_out" else layer
        inner = f"{old['stem']}.{leaf}{'' if old['rest'] == '.alpha' else '.lora'}{old['rest']}"
    if match := HALF.fullmatch(inner):
        half = match["peft"] or {"down": "A", "up": "B"}[match["old"]]
    elif match := ALPHA.fullmatch(inner):
        half = "alpha"
    else:
        raise NotPlain(
            name, "is not named unet.<layer>.lora_A.weight or lora_B.weight (or text_encoder.<layer>.…)", SAVE
        )
    return component, flat(component, match["layer"]), half


def flat(component: str, layer: str) -> str:
    """A text encoder's layer without the prefix that some versions of transformers give it."""
    return layer.removeprefix("text_model.") if component == "text_encoder" else layer


def read(
    metadata: Mapping[str, str], shapes: Mapping[str, Sequence[int]], value: Callable[[str], float]
) -> dict[str, Pair]:
    """Layer, as `unet.…` or `text_encoder.…`, -> its pair.

    `value` gives the number that a tensor of one element holds. NotPlain.
    """
    if not shapes:
        raise NotPlain("body", "it holds no tensors", SAVE)
    found: dict[tuple[str, str], dict[str, str]] = {}
    for name in shapes:
        component, layer, half = spelled(name)
        parts = found.setdefault((component, layer), {})
        if half in parts:
            raise NotPlain(name, f"is the same factor as '{parts[half][:200]}'", "Leave one of the two out.")
        parts[half] = name
    if len({component == "" for component, _ in found}) > 1:
        odd = next(parts for (component, _), parts in found.items() if component == "")
        raise NotPlain(
            next(iter(odd.values())),
            "has no part of the model before it, as others have",
            "Name every tensor unet.… or text_encoder.….",
        )
    said = adapter_config.parsed(metadata[adapter_config.KEY]) if adapter_config.KEY in metadata else None
    out = {}
    for (component, layer), parts in found.items():
        whole = f"{component or 'unet'}.{layer}"
        if "A" not in parts or "B" not in parts:
            raise NotPlain(whole, "has only one of lora_A and lora_B", SAVE)
        down, up = list(shapes[parts["A"]]), list(shapes[parts["B"]])
        if len(down) < 2 or len(up) < 2 or down[0] != up[1] or 0 in (*down, *up):
            raise NotPlain(
                whole, f"has lora_A {down} and lora_B {up}, not (r, in) and (out, r) of one rank", SAVE
            )
        alpha, rslora = float(down[0]), False
        if said is not None:
            alpha, rslora = settings_of(said, component, layer, down[0])
        if "alpha" in parts:
            if said is not None:
                raise NotPlain(
                    parts["alpha"],
                    "says alpha beside the metadata, which say it too",
                    "Leave one of the two out.",
                )
            alpha = number_of(parts["alpha"], shapes, value)
        out[whole] = Pair(parts["A"], parts["B"], down[0], alpha, rslora)
    return out


def number_of(name: str, shapes: Mapping[str, Sequence[int]], value: Callable[[str], float]) -> float:
    if list(shapes[name]) not in ([], [1]):
        raise NotPlain(name, f"is {list(shapes[name])}, not one number", SAVE)
    found = value(name)
    if not abs(found) < float("inf"):
        raise NotPlain(name, "is no finite number", SAVE)
    return found


def settings_of(said: Mapping[str, Any], component: str, layer: str, rank: int) -> tuple[float, bool]:
    """(alpha, rslora) of a layer by the adapter's settings, which must be settings of these tensors.

    NotPlain.
    """
    prefix = f"{component}." if component else ""
    where = f"{adapter_config.KEY}.{prefix}"

    def of(pattern: str, default: Any) -> Any:
        """What a pattern says of the layer; the first name that covers it counts."""
        return next(
            (
                x
                for name, x in said.get(f"{prefix}{pattern}", {}).items()
                if covers(flat(component, name), layer)
            ),
            default,
        )

    targets = said.get(f"{prefix}target_modules", [])
    if not isinstance(targets, str) and not any(covers(flat(component, name), layer) for name in targets):
        raise NotPlain(f"{where}target_modules", f"leaves out the layer '{layer[:200]}'", CONVERT)
    stated = of("rank_pattern", said.get(f"{prefix}r", adapter_config.DEFAULT_RANK))
    if stated != rank:
        raise NotPlain(
            f"{where}r",
            f"says rank {stated} for the layer '{layer[:200]}', whose lora_A has rank {rank}",
            CONVERT,
        )
    alpha = of("alpha_pattern", said.get(f"{prefix}lora_alpha", adapter_config.DEFAULT_RANK))
    return float(alpha), bool(said.get(f"{prefix}use_rslora", False))


def misfits(
    pairs: Mapping[str, Pair], shapes: Mapping[str, Sequence[int]], weights: Mapping[str, Sequence[int]]
) -> dict[str, str]:
    """Layers that a model with these weights (out, in, …) lacks, or that do not match its weights, and
    why.
    """
    out = {}
    for layer, pair in pairs.items():
        down, up, weight = list(shapes[pair.down]), list(shapes[pair.up]), weights.get(layer)
        if weight is None:
            out[layer] = "the model has no such layer"
        elif [up[0], *down[1:]] != list(weight) or any(n != 1 for n in up[2:]) or len(up) != len(weight):
            out[layer] = f"lora_A {down} and lora_B {up} do not fit the model's weight {list(weight)}"
    return out


def settings(pairs: Mapping[str, Pair]) -> dict[str, Any]:
    """What peft needs to be told of pairs whose layers are named as here: rank and alpha of each, and nothing
    else that a file may say.
    """
    out: dict[str, Any] = {}
    for component in ("unet", "text_encoder"):
        own = {
            layer.removeprefix(f"{component}."): pair
            for layer, pair in pairs.items()
            if layer.startswith(f"{component}.")
        }
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
