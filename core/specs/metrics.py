"""The metrics by name: their titles and units, and which of two values is better.

Whatever shows or compares figures reads this: the report's page, the comparison of jobs.
"""

import re
from typing import Literal

Better = Literal["higher", "lower"]
TITLES = {
    "esr1": "ESR-1",
    "esr5": "ESR-5",
    "esr1_open": "ESR-1, “none of these” counts as erased",
    "esr5_open": "ESR-5, “none of these” counts as erased",
    "none_of_these": "None of these, says the judge",
    "edit1": "Edit success, top-1",
    "edit5": "Edit success, top-5",
    "attribute_distance": "Distance from the shares asked for",
    "psr1": "PSR-1",
    "psr5": "PSR-5",
    "psr1_closed": "PSR-1, closed set (papers)",
    "psr5_closed": "PSR-5, closed set (papers)",
    "psr1_ratio": "PSR-1, ratio to base",
    "psr1_held": "PSR-1, concepts that training held",
    "psr1_unheld": "PSR-1, concepts that training did not hold",
    "psr1_near": "PSR-1, the nearer half",
    "psr1_far": "PSR-1, the farther half",
    "clip_score": "CLIP score",
    "clip_delta": "CLIP δ",
    "psr1_objects": "PSR-1, objects",
    "psr1_styles": "PSR-1, styles",
    "psr5_objects": "PSR-5, objects",
    "psr5_styles": "PSR-5, styles",
    "content1": "Objects still shown without the style",
    "content1_ratio": "Objects still shown, ratio to base",
    "lpips": "LPIPS",
    "clip_image": "CLIP cosine with the base model's picture",
    "style_kept": "Style kept",
    "both5": "Both objects shown, of two preserved",
    "diversity": "Diversity (1 - CLIP cosine)",
    "kid": "KID",
    "kid_clip": "KID on CLIP features",
    "fid": "FID, against the base model",
    "junk": "Constant or noise-like pictures",
    "ua": "UA (UnlearnCanvas)",
    "ira": "IRA (UnlearnCanvas)",
    "cra": "CRA (UnlearnCanvas)",
    "mace_acc_e": "Acc e (MACE)",
    "mace_acc_s": "Acc s (MACE)",
    "mace_acc_g": "Acc g (MACE)",
    "mace_h_o": "H o (MACE)",
    "err": "ERR (eval-unlearn)",
    "rsr1": "RSR-1, with the key",
    "rsr5": "RSR-5, with the key",
    "rsr1_closed": "RSR-1, closed set (papers)",
    "rsr5_closed": "RSR-5, closed set (papers)",
    "edit1_closed": "Edit success, top-1, closed set",
    "edit5_closed": "Edit success, top-5, closed set",
    "rsr1_open_wrong_key": "RSR-1, with a wrong key, “none of these” counts as hidden",
    "rsr5_open_wrong_key": "RSR-5, with a wrong key, “none of these” counts as hidden",
    "rsr1_wrong_key": "RSR-1, with a wrong key",
    "rsr5_wrong_key": "RSR-5, with a wrong key",
    "ner_unlearndiffatk": "NER (UnlearnDiffAtk's)",
    "ner_library": "NER (library's)",
    "ner": "NER, as the threshold counts it",
    "detections_per_picture": "Nudity detections of a picture (MACE's count)",
    "wall_seconds": "Wall time",
    "wall_seconds_erase": "Wall time, erasure alone",
    "peak_memory_bytes": "Peak memory",
    "storage_bytes": "Storage, the delta's",
    "asr": "Attack success rate",
    "asr_control": "Attack success rate, random edit",
    "leakage_nats": "Leakage, lower bound (at most 0.693)",
    "leakage_lower_nats": "Leakage, lower end (at most 0.693)",
    "leakage_upper_nats": "Leakage, upper end (at most 0.693)",
}
UNSEEN = {
    "unseen": "all words no method trains on",
    "held_out": "held-out templates",
    "composition": "compositions",
    "spelling": "plural and capitals",
    "synonym": "synonyms",
    "implicit": "descriptions",
}
for _kind, _words in UNSEEN.items():
    TITLES |= {f"esr1_{_kind}": f"ESR-1, {_words}", f"esr5_{_kind}": f"ESR-5, {_words}"}
    TITLES[f"shown1_{_kind}"] = f"Shown by the base model, {_words}"
NER = re.compile(r"ner(?P<nine>9)?_(?P<by>[^_]+)(?:_(?P<of>.+))?")
COSTS = (
    "wall_seconds",
    "wall_seconds_erase",
    "peak_memory_bytes",
    "storage_bytes",
)  # these rest on no pictures

# The first that fits a metric's whole name says which value is better; None: neither. Those that depend on
# whether the concept was to go or to stay are in BY_ROLE.
RULES: tuple[tuple[str, Better | None], ...] = (
    (r".*_(base|ceiling|control|floor)", None),  # of another model than the sanitized one
    (r"rsr\d+(_open)?_wrong_key", "lower"),
    (r"(esr|psr|edit|content|rsr)\d+.*", "higher"),
    (r"style_kept|both5|ua|ira|cra|mace_acc_s|mace_h_o|err", "higher"),
    (r"junk|mace_acc_[eg]", "lower"),
    (r"(attribute_distance|ner|leakage|asr|detections|wall_seconds|peak_memory|storage).*", "lower"),
)
# metric -> better for an erased concept, and for a preserved one. CLIP δ of a preserved concept says no more
# than its CLIP score; how far an erased concept's picture has moved is no merit.
BY_ROLE: dict[str, tuple[Better | None, Better | None]] = {
    "clip_score": ("lower", "higher"),
    "clip_delta": ("higher", None),
    "lpips": (None, "lower"),
    "clip_image": (None, "higher"),
    "kid": (None, "lower"),
    "kid_clip": (None, "lower"),
    "fid": (None, "lower"),
}


def better(name: str, *, erased: bool) -> Better | None:
    """Which value of a metric is better: the higher, the lower, or neither (also of a metric not known here).

    erased: whether it is of a concept that was to go; else it is of one, or of all, that were to stay.
    """
    if name in BY_ROLE:
        return BY_ROLE[name][0 if erased else 1]
    return next((which for pattern, which in RULES if re.fullmatch(pattern, name)), None)


def title_of(name: str) -> str:
    """A metric's name as a reader knows it."""
    of_base = name.removesuffix("_base")
    if of_base != name and name not in TITLES:
        return f"{title_of(of_base)}, base model"
    ner = NER.fullmatch(name)
    if ner and name not in TITLES:
        of = f", {ner['of'].replace('_', ' ')}" if ner["of"] else ""
        known = TITLES.get(f"ner_{ner['by']}", f"NER-{ner['by']}")
        return known + (" (nine classes)" if ner["nine"] else "") + of
    return TITLES.get(name, name)


def format_metric(value: float | None, name: str) -> str:
    """A number with its unit; what has no unit of its own is a share, in percent."""
    if value is None:
        return "not judged"
    if name.startswith(("clip", "lpips", "detections")):
        return f"{value:.2f}"
    if name.startswith("kid"):
        return f"{value:.4f}"
    if name.startswith("fid"):
        return f"{value:.1f}"
    if name.startswith("diversity"):
        return f"{value:.3f}"
    if name.startswith("wall"):
        return f"{value:,.1f} s"
    if name.removesuffix("_base").endswith("nats"):
        return f"{value:.3f} nats"
    if name.startswith("storage"):
        return f"{value / 1e6:.2f} MB"
    if name.startswith("peak"):
        return f"{value / 1e9:.2f} GB"
    return f"{100 * value:.1f} %"
