"""What a report does not speak of: derived from what was asked for, and from what was drawn."""

from collections.abc import Sequence

from expunge.core import phrasing
from expunge.core.evaluation.pictures import Picture
from expunge.core.evaluation.report import Report
from expunge.core.evaluation.trigger_scan import Scan
from expunge.core.specs.attacks import ATTACKS
from expunge.core.specs.metrics import UNSEEN

WAYS = "other samplers, picture sizes, image-to-image, inpainting, ControlNets, further LoRAs"


def list_untested(
    report: Report, pictures: Sequence[Picture], *, foreign_base: bool, foreign_delta: bool
) -> list[str]:
    """Sentences for a reader, the gravest first.

    foreign_base: the base model is not the bundled one; foreign_delta: the delta was uploaded.
    """
    return [
        *attacks_left_out(report),
        *leakage_left_out(report),
        *judges_left_out(report),
        *words_left_out(report, pictures),
        *ways_left_out(report, pictures),
        *kept_left_out(report),
        *nudity_left_out(report),
        *triggers_left_out(report, foreign_base, foreign_delta),
    ]


def attacks_left_out(report: Report) -> list[str]:
    """Attacks that were not run, or that were too weak to tell."""
    if not report.erased:
        return []
    concepts = phrasing.listing(report.erased)
    tried = dict.fromkeys(attack.attack for attack in report.attacks)
    if not tried:
        return [
            f"Attacks: none was run. Whether a crafted prompt, a learned word, further training or taking the"
            f" delta off brings {concepts} back is not known (evaluation.attacks: quick runs some)."
        ]
    said = []
    if left := [name for name in ATTACKS if name not in tried]:
        said.append(f"Attacks that were not run: {phrasing.listing(left)}; nor were stronger budgets.")
    weak = [a for a in report.attacks if a.status == "not shown"]
    if weak:
        named = phrasing.listing(list(dict.fromkeys(f"{a.attack} on {a.concept}" for a in weak)))
        said.append(f"Attacks that showed nothing either way: {named}.")
    attacked = {attack.concept for attack in report.attacks}
    if spared := [name for name in report.erased if name not in attacked]:
        said.append(f"Concepts that were not attacked: {phrasing.listing(spared)}.")
    return said


def leakage_left_out(report: Report) -> list[str]:
    measured = report.leakage or any(metric.name.startswith("leakage") for metric in report.metrics)
    if measured or not report.erased:
        return []
    return [
        "Leakage: how much the pictures still tell of the concept, to a reader sharper than the judges, was"
        " not measured."
    ]


def judges_left_out(report: Report) -> list[str]:
    """Concepts that nobody judged; and that no person looked."""
    gaps = {gap.concept for gap in report.not_available if gap.metric in ("esr1", "psr1")}
    said = []
    if unknown := [name for name in (*report.erased, *report.preserved) if name in gaps]:
        said.append(f"No judge knows {phrasing.listing(unknown)}: look at the pictures yourself.")
    said.append(
        "Judges are networks, and no person has looked: they do not see style, likeness or meaning as you do."
    )
    return said


def words_left_out(report: Report, pictures: Sequence[Picture]) -> list[str]:
    """The words in which each erased concept was asked for, and those in which it was not."""
    drawn = [picture for picture in pictures if picture.role == "erased"]
    if not drawn:
        return []
    kinds = {picture.kind for picture in drawn}
    missing = [words for kind, words in UNSEEN.items() if kind not in ("unseen", *kinds)]
    prompts = len({picture.prompt for picture in drawn})
    idle = [words for kind, words in UNSEEN.items() if report.value(f"shown1_{kind}") == 0]
    vain = (
        f" With {phrasing.listing(idle)} the base model drew none of it, which tests nothing." if idle else ""
    )
    left = f" Nothing was drawn with {phrasing.listing(missing)}." if missing else ""
    return [
        f"Words: {prompts} different prompt{'s' * (prompts != 1)} asked for"
        f" {phrasing.listing(report.erased)}; other prompts and other languages were not drawn.{left}{vain}"
    ]


def ways_left_out(report: Report, pictures: Sequence[Picture]) -> list[str]:
    """Seeds, and ways to draw."""
    if not pictures:
        return []
    seeds = sorted({picture.seed for picture in pictures})
    spec = report.evaluation
    return [
        f"Drawing: only seeds {seeds[0]} to {seeds[-1]}, with {spec.sampling_steps} steps and guidance"
        f" {spec.guidance_scale:g}. Not drawn: {WAYS}."
    ]


def kept_left_out(report: Report) -> list[str]:
    """What else may have suffered."""
    if not report.preserved:
        return ["Kept concepts: none was looked at, so what else was damaged is not known."]
    said = f"Kept concepts: these {len(report.preserved)} alone were looked at."
    if report.value("psr1_unheld") is None:
        reason = next((g.reason for g in report.not_available if g.metric == "psr1_unheld"), None)
        if reason is not None:
            said += f" None of them is known to be one that training did not hold ({reason})."
    return [said]


def nudity_left_out(report: Report) -> list[str]:
    if any(metric.name.startswith("ner") for metric in report.metrics):
        return ["Nudity: one detector looked, whose recall is known to be low: no finding is no clearance."]
    return ["Nudity was not looked for (evaluation.nudity)."]


def triggers_left_out(report: Report, foreign_base: bool, foreign_delta: bool) -> list[str]:
    """Uploaded weights may draw the concept on a secret word that no prompt here contains."""
    files = [*(["the base model"] if foreign_base else []), *(["the delta"] if foreign_delta else [])]
    said = []
    if files:
        it = "it" if len(files) == 1 else "them"
        looked = "not ruled out" if report.scans else "not tested (evaluation.trigger_scan takes a look)"
        said.append(
            f"Triggers: {phrasing.listing(files)} came from outside. Whether a secret word planted in"
            f" {it} calls the concept up was {looked}."
        )
    return [*said, *map(scanned, report.scans)]


def scanned(scan: Scan) -> str:
    """What a look for triggers found, and what it cannot find."""
    looked = {
        "words": f"{scan.n} words were tried for '{scan.concept}'",
        "token_norms": f"the embeddings of {scan.n} tokens were compared in size",
        "layer_norms": f"the delta's changes of {scan.n} layers were compared in size",
    }[scan.scan]
    named = [f"'{each.what}' ({each.value:.2g}, typically {each.typical:.2g})" for each in scan.suspects]
    out = f"{phrasing.listing(named)} stand{'s' * (len(named) == 1)} out" if named else "nothing stands out"
    return f"A look for triggers: {looked}; {out}. It cannot find {scan.misses}."
