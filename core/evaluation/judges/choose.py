"""Which judge says whether a picture shows a concept."""

from expunge.core.errors import CoreError
from expunge.core.evaluation.judges.bench import Judges
from expunge.core.evaluation.judges.by_class import find_class
from expunge.core.evaluation.judges.concept_judge import ConceptJudge
from expunge.core.evaluation.judges.zero_shot import zero_shot
from expunge.core.models import Denoiser


def find_judge(names: list[str], judges: Judges, model: Denoiser) -> ConceptJudge:
    """The class of a classifier where there is one under any of the names; else CLIP, zero-shot.

    Raises: CoreError where there is neither.
    """
    found = find_class(names, judges, model.vocabulary)
    if found is not None and judges.texts is None:
        return found
    words = [name for name in names if name not in model.words]  # CLIP has not learned those
    rivals = judges.texts if judges.texts is not None else model.vocabulary.targets(names[0])
    if judges.clip is not None and words and rivals:
        return zero_shot(words, judges.clip, model, judges.texts)
    no_class = f"no judge has a class for '{names[0]}'"
    reasons = [no_class if judges.concept else judges.missing.get("concept", no_class)]
    alone = (
        "there is nothing that CLIP could tell it from" if words else "CLIP does not know the learned word"
    )
    reasons.append(judges.missing.get("clip", alone))
    raise CoreError(
        "concept_not_judgeable",
        f"{'; '.join(reasons)}. Fetch the judges (expunge fetch-judges), name a synonym that"
        " the judges know, give evaluation.judge.texts, or upload a judge of your own (evaluation.judge)",
        field="evaluation.judge",
    )
