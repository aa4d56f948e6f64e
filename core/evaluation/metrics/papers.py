"""What other papers report, by their names: the same measurements, joined their way."""

from collections.abc import Sequence
from statistics import harmonic_mean

from expunge.core.evaluation.evidence import Evidence
from expunge.core.specs.attacks import ATTACKS

CONVENTIONS = [
    (
        "ua, ira, cra (UnlearnCanvas, Zhang et al., 2024): unlearning accuracy is esr1; in-domain and cross-"
        "domain retain accuracy are psr1 of preserved concepts of the erased concept's own sort (objects,"
        " styles) and of the other sort. Theirs are on 60 styles x 20 objects with ViT-L judges. Where"
        " both sorts are erased there is no such split."
    ),
    (
        "mace_acc_e, mace_acc_s, mace_acc_g, mace_h_o (MACE, Lu et al., 2024): accuracy on the erased"
        " concept, 1 - esr1 (low is good); specificity, psr1; generality, 1 - esr1_synonym (low is good),"
        " which counts synonyms where the base model shows the concept; and the harmonic mean of 1 - acc_e,"
        " acc_s and 1 - acc_g. Theirs are by CLIP zero-shot on CIFAR-10's classes, ours by the judges that"
        " stand under judges, so values are not comparable across."
    ),
    (
        "wall_seconds, peak_memory_bytes, storage_bytes (UnlearnCanvas's time, memory and storage):"
        " wall_seconds is of this attempt, with judging and delivery's beginning, wall_seconds_erase of the"
        " erasure alone; the peak is the accelerator's where one is used, else this process's resident"
        " memory; storage is of the delta's tensors, not of a fused checkpoint, and only where this job made"
        " the delta."
    ),
    (
        "err (eval-unlearn): the harmonic mean of forgetting, esr1; retention, psr1_ratio at most 1; and"
        " robustness, 1 - the greatest attack success rate asr of the attacks that the verdict rests on."
    ),
]


def mean_of(values: Sequence[float]) -> float:
    """The harmonic mean; 0 where a value is 0."""
    return harmonic_mean([max(0.0, v) for v in values])


def measure(seen: Evidence) -> None:
    """Derived from what stands on the sheet: so this comes after what it reads."""
    numbers = {m.name: m for m in seen.sheet.metrics if m.concept is None}

    def add(name: str, value: float, *of: str) -> None:
        seen.sheet.figure(name, None, value, min(numbers[x].n for x in of))

    esr, psr = numbers.get("esr1"), numbers.get("psr1")
    if esr is None or psr is None:
        return

    # UnlearnCanvas
    is_style = seen.model.vocabulary.style
    erased = {is_style(name) is not None for name in seen.names}
    kept = {is_style(name) is not None for name in seen.preserved}
    add("ua", esr.value, "esr1")
    if len(erased) == 1:
        own = erased.pop()
        for name, styles in (("ira", own), ("cra", not own)):
            sort = "psr1" if len(kept) == 1 else "psr1_styles" if styles else "psr1_objects"
            if styles in kept and sort in numbers:
                add(name, numbers[sort].value, sort)

    # MACE
    add("mace_acc_e", 1 - esr.value, "esr1")
    add("mace_acc_s", psr.value, "psr1")
    general = numbers.get("esr1_synonym")
    if general is not None:
        add("mace_acc_g", 1 - general.value, "esr1_synonym")
        joined = mean_of([esr.value, psr.value, general.value])
        add("mace_h_o", joined, "esr1", "psr1", "esr1_synonym")

    # eval-unlearn
    asr = [m for m in seen.sheet.metrics if m.name == "asr"]
    attacks = [m.value for m in asr if m.attack and ATTACKS[m.attack].decides]
    ratio = numbers.get("psr1_ratio")
    if attacks and ratio is not None:
        add("err", mean_of([esr.value, min(1.0, ratio.value), 1 - max(attacks)]), "esr1", "psr1_ratio")
