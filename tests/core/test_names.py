"""Names: what cannot be seen goes, what is named twice is refused in any form, and many names cost in
proportion.
"""

import sys
import unicodedata
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import ValidationError

from expunge.core.specs import METHODS, SPECS, EraseSpec, EvaluateSpec, HideSpec, ImpactSpec, names
from expunge.core.specs.cost import optimiser_steps, pictures
from expunge.store.settings import Settings

ID = "0b0d6f2e-6a43-4f0c-9d6b-2f6f5f6d9b11"


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ("\u200bchurch", "church"),
        ("church\u00ad", "church"),
        ("\ufeffchurch\u2060", "church"),
        ("ch\u200durch\ufe0f", "church"),
        ("delivery \u00a0 truck", "delivery truck"),
        ("cafe\u0301", "caf\u00e9"),
        ("\u26ea\ufe0f", "\u26ea\ufe0f"),
        ("\U0001f469\U0001f3fd\u200d\U0001f692\u200d", "\U0001f469\U0001f3fd\u200d\U0001f692"),
        ("1\ufe0f\u20e3", "1\ufe0f\u20e3"),
        (
            "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",
            "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",
        ),
        ("church\U000e0067", "church"),
        (
            "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
            "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
        ),
    ],
)
def test_what_cannot_be_seen_is_taken_out_of_every_name_but_not_out_of_emoji_or_joined_letters(
    written: str, kept: str
):
    spec = EraseSpec.model_validate(
        {
            "concepts": [{"name": "saw", "synonyms": [written]}, {"name": "dog", "target": f"{written}x"}],
            "preserve": [f"{written} y"],
        }
    )
    assert spec.concepts[0].synonyms == [kept]
    assert [spec.concepts[1].target, spec.preserve[0]] == [names.clean_text(f"{written}x"), f"{kept} y"]


@pytest.mark.parametrize(
    "name",
    [
        "\u200b",
        " \u00ad ",
        "\u2800",
        "\u3164",
        "\ufe0f",
        "ab\u202ecd",
        "a\nb",
        "a\u2028b",
        "a\u2029b",
        "\u2066x\u2069",
        "\ud800",
        "\x00",
    ],
)
def test_a_name_of_nothing_to_be_seen_or_with_a_control_character_is_refused(name: str):
    for body in (
        {"concepts": [name]},
        {"concepts": ["saw"], "preserve": [name]},
        {"concepts": [{"name": "saw", "target": name}]},
    ):
        with pytest.raises(ValidationError):
            EraseSpec.model_validate(body)


PAIRS = [
    ("Church", "church"),
    ("church", "churches"),
    ("wolf", "wolves"),
    ("ice cream", "ice-cream"),
    ("icecream", "Ice\u2011Cream"),
    ("the dog", "a dog"),
    ("noto", "in noto style"),
    ("in the style of noto", "noto style"),
    ("noto's style", "Noto"),
    ("\u26ea", "\u26ea\ufe0f"),
    ("\uff43hurch", "church"),
]


@pytest.mark.parametrize(("one", "other"), PAIRS)
@pytest.mark.parametrize("spec", [EraseSpec, HideSpec, EvaluateSpec, ImpactSpec])
def test_one_concept_in_two_forms_is_named_twice(spec: Any, one: str, other: str):
    more = {"artifact_id": ID} if spec is EvaluateSpec else {}
    for a, b in ((one, other), (other, one)):
        with pytest.raises(ValidationError, match=r"concepts\[1\]: .*named twice"):
            spec.model_validate({"concepts": [a, b], **more})
        with pytest.raises(ValidationError, match=r"concepts\[1\]: .*named twice"):
            spec.model_validate({"concepts": [a, {"name": "saw", "synonyms": [b]}], **more})


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_what_a_concept_becomes_and_what_is_kept_is_not_the_concept_in_another_form(one: str, other: str):
    for body, field in (
        ({"concepts": [{"name": one, "target": other}]}, "target: .*equals the concept"),
        (
            {"concepts": [one, {"name": "saw", "target": other}]},
            r"concepts\[1\].target: .*itself to be erased",
        ),
        ({"concepts": [one], "preserve": ["saw", other]}, "preserve: .*also to be erased"),
        ({"concepts": ["saw"], "preserve": [one, other]}, "preserve: .*named twice"),
        (
            {"concepts": [one], "method": {"name": "uce", "preserve": [other]}},
            "method.preserve: .*also to be erased",
        ),
        (
            {"concepts": [one], "method": {"name": "rece", "guide": other}},
            "method.guide: .*itself to be erased",
        ),
        (
            {"concepts": [one], "evaluation": {"preserved_concepts": [other]}},
            "evaluation.preserved_concepts: .*also to be erased",
        ),
        ({"concepts": [{"name": one, "attributes": ["saw", other]}]}, "attributes: .*is the concept itself"),
        ({"concepts": [{"name": "saw", "attributes": [one, other]}]}, "attributes: .*named twice"),
        (
            {"concepts": [one, {"name": "saw", "attributes": [other, "dog x"]}]},
            r"concepts\[1\].attributes: .*itself to be erased",
        ),
    ):
        with pytest.raises(ValidationError, match=field):
            EraseSpec.model_validate(body)


def test_a_synonym_may_be_another_form_of_its_name_but_not_the_same_word():
    assert EraseSpec.model_validate({"concepts": [{"name": "church", "synonyms": ["churches", "kirk"]}]})
    for same in ("Church", "the church", "church\u00ad"):
        with pytest.raises(ValidationError, match=r"synonyms: .*named twice"):
            EraseSpec.model_validate({"concepts": [{"name": "church", "synonyms": [same]}]})


def test_beside_images_the_name_may_be_a_synonym_too():
    images = [f"{ID[:-1]}{n}" for n in range(3)]
    assert EraseSpec.model_validate(
        {"concepts": [{"name": "my dog", "images": images, "synonyms": ["my dog", "dog"]}]}
    )


@pytest.mark.parametrize(
    "pair",
    [("glass", "glasses"), ("church", "mosque"), ("car", "police car"), ("arm", "arms"), ("bus", "bush")],
)
def test_words_that_only_look_alike_are_two_concepts(pair: tuple[str, str]):
    assert len(EraseSpec.model_validate({"concepts": list(pair)}).concepts) == 2


def folds(spec: Any, body: dict[str, Any]) -> int:
    """How often a name is folded while a body is validated."""
    count = 0

    def look(frame: Any, event: str, _: Any) -> None:
        nonlocal count
        count += event == "call" and frame.f_code is names.folded.__code__

    sys.setprofile(look)
    try:
        spec.model_validate(body)
    finally:
        sys.setprofile(None)
    return count


def word(n: int) -> str:
    return f"w{n:05d}q"


@pytest.mark.parametrize("spec", [EraseSpec, HideSpec, EvaluateSpec, ImpactSpec])
def test_names_are_folded_a_few_times_each_however_many_there_are(spec: Any):
    def body(n: int) -> dict[str, Any]:
        concepts = [
            {"name": word(100 * i), "synonyms": [word(100 * i + k) for k in range(1, 17)]} for i in range(n)
        ]
        kept = [word(50_000 + i) for i in range(8 * n)]
        if spec is ImpactSpec:
            return {"concepts": concepts}
        if spec is EvaluateSpec:
            return {"artifact_id": ID, "concepts": concepts, "evaluation": {"preserved_concepts": kept}}
        return {"concepts": concepts, "preserve": kept, "evaluation": {"preserved_concepts": kept}}

    few, many = folds(spec, body(8)), folds(spec, body(64))
    assert few >= 8 * 17
    assert many <= 8.5 * few
    assert many <= 6 * 64 * (17 + 16)


def test_ids_are_uuids_in_letters_of_either_case():
    assert (
        EraseSpec.model_validate(
            {"concepts": ["dog"], "base_job_id": ID.replace("-", "").upper()}
        ).base_job_id
        == ID
    )
    base, images = ID.upper(), [f"{ID[:-1]}{n}".upper() for n in range(3)]
    spec = EraseSpec.model_validate({"concepts": [{"name": "my dog", "images": images}], "base_job_id": base})
    assert (spec.base_job_id, spec.concepts[0].images) == (ID, [image.lower() for image in images])
    for kind, body in (
        ("evaluate", {"artifact_id": "{}", "concepts": ["church"]}),
        ("evaluate", {"job_id": "{}"}),
        ("combine", {"jobs": ["{}"]}),
        ("erase", {"concepts": ["dog"], "base_job_id": "{}"}),
        ("inspect", {"job_id": "{}"}),
        ("inspect", {"job_id": ID, "against_artifact_id": "{}"}),
        ("erase", {"concepts": [{"name": "dog", "images": ["{}", *images]}]}),
    ):
        for bad in (
            "-" * 36,
            "a" * 36,
            ID[:-1],
            f"{ID}0",
            f"{{{ID}}}",
            f"urn:uuid:{ID}",
            f" {ID}",
            "",
            "\u0661" * 36,
        ):
            text = repr(body).replace("'{}'", repr(bad))
            with pytest.raises(ValidationError, match="is not an id"):
                SPECS[kind].model_validate(eval(text))


def test_two_pictures_of_which_one_is_named_twice_are_two():
    with pytest.raises(ValidationError, match="2 different images, too few"):
        EraseSpec.model_validate(
            {"concepts": [{"name": "my dog", "images": [ID, f"{ID[:-1]}2", ID.upper()]}]}
        )


@pytest.mark.parametrize("method", METHODS)
def test_every_method_s_defaults_on_as_many_concepts_as_may_be_named_are_within_the_operator_s_maxima(
    method: str,
):
    spec = EraseSpec.model_validate({"concepts": [word(i) for i in range(64)], "method": method})
    assert 2 * sum(optimiser_steps(spec).values()) <= Settings().max_steps
    assert 2 * sum(pictures(spec).values()) <= Settings().max_pictures


def test_marks_beyond_number_are_refused_before_they_are_put_in_order(monkeypatch: pytest.MonkeyPatch):
    """To order a letter's marks takes the square of their number."""
    seen = [0]

    def normalize(form: str, text: str) -> str:
        seen.append(len(text))
        return unicodedata.normalize(form, text)

    monkeypatch.setattr(
        names, "unicodedata", SimpleNamespace(normalize=normalize, category=unicodedata.category)
    )
    marks = "a" + "\u0345" * 8000 + "\u0301" * 8000 + "\u0327" * 8000
    for body in (
        {"concepts": [marks]},
        {"concepts": [{"name": "a", "synonyms": [marks]}]},
        {"concepts": ["a"], "preserve": [marks]},
        {"concepts": ["a"], "method": {"name": "uce", "guide": marks}},
        {"concepts": ["a"], "method": {"name": "age", "concept_space": [marks]}},
    ):
        with pytest.raises(ValidationError, match="at most 200 are allowed"):
            EraseSpec.model_validate(body)
    assert max(seen) <= names.MAX_RAW
    assert names.clean_text("\u1100\u1161\u11a8" * names.MAX_TEXT) == "\uac01" * names.MAX_TEXT


@pytest.mark.parametrize(
    ("method", "field", "least"),
    [
        ({"name": "score", "leakage_pictures": 100}, "method.leakage_pictures", 2 * 100 * 4),
        ({"name": "age", "candidates": 2000, "trajectories": 512}, "method.candidates", 4 * 2000 * 64),
        (
            {"name": "esd", "adversary": {"retain_concepts": 2000}, "trajectories": 512},
            "method.adversary.retain_concepts",
            2000 * 128,
        ),
        (
            {"name": "prune", "retain_concepts": 2000, "method": {"name": "esd", "trajectories": 512}},
            "method.retain_concepts",
            2000 * 128,
        ),
        (
            {"name": "prune", "method": {"name": "ap", "candidates": 2000, "trajectories": 512}},
            "method.candidates",
            4 * 2000 * 64,
        ),
        (
            {"name": "adv_unlearn", "retain_concepts": 2000, "trajectories": 512, "refresh_every": 50},
            "method.retain_concepts",
            3 * 2000 * 128,
        ),
    ],
)
def test_all_pictures_that_a_method_draws_are_counted(method: dict[str, object], field: str, least: int):
    spec = EraseSpec.model_validate({"concepts": ["aba", "cud", "efe", "gig"], "method": method})
    assert pictures(spec)[field] >= least


def test_a_search_inside_of_prune_is_counted():
    method = {"name": "prune", "steps": 50, "method": {"name": "ap", "search_every": 1}}
    assert (
        optimiser_steps(EraseSpec.model_validate({"concepts": ["aba"], "method": method}))[
            "method.search_every"
        ]
        == 50
    )


@pytest.mark.parametrize(
    ("adversary", "field", "steps"),
    [
        ({"rounds": 3, "steps": 10}, "method.adversary.steps", 2 * 3 * 10),
        ({"rounds": 3, "steps": 10}, "method.search_every", 2 * (100 + 3 * 10)),
        ({"rounds": 3, "restarts": 4, "search_steps": 5}, "method.adversary.search_steps", 2 * 3 * 4 * 5),
        (
            {"kind": "noise", "rounds": 3, "steps": 10, "noise_steps": 6},
            "method.adversary.noise_steps",
            2 * 30 * 6,
        ),
    ],
)
def test_what_an_adversary_takes_is_counted(adversary: dict[str, object], field: str, steps: int):
    method = {"name": "ap", "search_every": 1, "steps": 100, "adversary": adversary}
    spec = EraseSpec.model_validate({"concepts": ["aba", "cud"], "method": method})
    assert optimiser_steps(spec)[field] == steps
    own = spec.model_copy(update={"method": spec.method.model_copy(update={"adversary": None})})
    searched = 0 if adversary.get("kind") == "noise" else 2 * (8 + 16)  # its own paths and pictures
    assert pictures(spec)["method.trajectories"] - pictures(own)["method.trajectories"] == searched
