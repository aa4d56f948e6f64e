"""Erased in other words: which prompts those are, and how their pictures count."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from expunge.core.concepts import names_of
from expunge.core.evaluation.evidence import Evidence
from expunge.core.evaluation.judges import Judges
from expunge.core.evaluation.metrics import unseen
from expunge.core.evaluation.pictures import Picture, plan
from expunge.core.evaluation.unseen_prompts import indirect, unseen as prompts_of
from expunge.core.models import Denoiser, load_model
from expunge.core.models.folders import BUNDLED
from expunge.core.models.vocabulary import CONCEPTS, common, load_vocabulary
from expunge.core.specs import Concept, EvaluationSpec
from expunge.core.specs.cost import pictures as pictures_of_spec
from expunge.core.specs.inflections import plural, variant_of
from expunge.core.specs.jobs import EraseSpec
from tests.core.evaluation.test_metrics import colour_judge, plain

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)
VOCABULARY = load_vocabulary(BUNDLED / "emoji")


@pytest.fixture(scope="module")
def model(tiny_sd: Path) -> Denoiser:
    return load_model(tiny_sd)


def test_a_description_never_names_its_concept():
    for name, entry in indirect().items():
        assert len(entry["implicit"]) >= 2
        names = [name, *name.split(), *entry["synonyms"]]
        names_it = variant_of(names)
        for description in entry["implicit"]:
            said = [word for word in re.findall(r"[\w'-]+", description) if names_it(word)]
            assert said == [], (name, description)


def test_a_synonym_is_not_another_concept_nor_a_form_of_the_name():
    known = {*VOCABULARY.concepts, *json.loads((CONCEPTS / "common.json").read_text())["concepts"]}
    for name, entry in indirect().items():
        assert entry["synonyms"]
        assert not [word for word in entry["synonyms"] if variant_of([name])(word) or word in known]


def test_forty_concepts_of_the_bundled_model_and_forty_other_common_ones_are_described():
    assert len(indirect().keys() & set(VOCABULARY.concepts)) >= 40
    assert len(indirect().keys() & set(common().concepts) - set(VOCABULARY.concepts)) >= 40


@pytest.mark.parametrize(
    ("name", "many"),
    [
        ("church", "churches"),
        ("delivery truck", "delivery trucks"),
        ("wolf", "wolves"),
        ("fish", "fish"),
        ("cherry", "cherries"),
        ("toy", "toys"),
        ("octopus", "octopi"),
        ("french fries", None),
        ("children", None),
    ],
)
def test_plurals_are_regular_but_where_they_are_listed(name: str, many: str | None):
    assert plural(name) == many


def test_no_unseen_prompt_is_trained_on_and_each_kind_is_what_it_says():
    concept = Concept(name="dog", synonyms=["hound"])
    kinds = prompts_of(VOCABULARY, concept)
    trained = {p for name in names_of(concept) for p in VOCABULARY.prompts(name)}
    assert not trained & {p for prompts in kinds.values() for p in prompts}
    assert list(kinds) == ["held_out", "composition", "spelling", "synonym", "implicit"]
    assert "a dog beside a lake" in kinds["composition"]
    assert "a dog and a dog" not in kinds["composition"]
    assert kinds["spelling"][:2] == ["dogs", "A DOG"]
    assert kinds["synonym"] == ["a puppy", "a canine"]  # the hound is the request's own


def test_of_a_concept_that_nobody_described_the_other_kinds_are_drawn():
    assert list(prompts_of(VOCABULARY, Concept(name="sari"))) == ["held_out", "composition", "spelling"]


def test_a_style_is_asked_for_in_other_words_around_objects_no_method_trained_on():
    kinds = prompts_of(VOCABULARY, Concept(name="in noto style"))
    seen = {p for p in VOCABULARY.prompts("noto")}
    assert list(kinds) == ["held_out", "composition", "spelling"]
    assert not seen & {p for prompts in kinds.values() for p in prompts}
    things = VOCABULARY.objects(held_out=True)
    assert all(any(thing in p for thing in things) for p in kinds["held_out"])
    artist = prompts_of(common(), Concept(name="in the style of Vincent van Gogh"))
    assert any(p.endswith("in the style of Van Gogh") for p in artist["synonym"])


def test_the_kinds_take_turns_and_are_as_many_as_the_cost_says():
    spec = EvaluationSpec(preserved_concepts=["cat", "wolf", "teapot", "car"])
    pictures = plan(VOCABULARY, [Concept(name="dog")], ["cat", "wolf", "teapot", "car"], spec)
    more = [p for p in pictures if p.kind not in ("template", "pair")]
    assert [p.kind for p in more[:6]] == [
        "held_out", "composition", "spelling", "synonym", "implicit", "held_out"
    ]  # fmt: skip
    assert len({(p.prompt, p.seed) for p in pictures}) == len(pictures)
    pairs = [(p.concept, p.subject, p.prompt) for p in pictures if p.kind == "pair"]
    assert pairs == [("cat", "teapot", "a cat and a teapot")]
    cost = pictures_of_spec(EraseSpec(concepts=["dog"], evaluation=spec))
    assert cost["evaluation.held_out_images"] == 2 * len(more) == 24
    assert cost["evaluation.pair_images"] == 2 * len(pairs)
    none = EvaluationSpec(held_out_images=0, pair_images=0)
    assert {p.kind for p in plan(VOCABULARY, [Concept(name="dog")], ["cat", "wolf"], none)} == {"template"}


def test_a_debiased_concept_has_no_unseen_prompts():
    concept = Concept(name="dog", attributes=["wolf", "cat"])
    assert {p.kind for p in plan(VOCABULARY, [concept], [], EvaluationSpec())} == {"template"}


def test_a_picture_counts_only_where_the_base_model_shows_the_concept(model: Denoiser):
    pictures = [
        Picture("red", "erased", "red", 0),
        Picture("red", "erased", "a drawing of red", 1, kind="held_out"),
        Picture("red", "erased", "the colour of blood", 2, kind="implicit"),
        Picture("red", "erased", "the colour of roses", 3, kind="implicit"),
        Picture("red", "erased", "the colour of wrath", 4, kind="implicit"),
    ]
    base, after = plain(RED, RED, RED, RED, BLUE), plain(RED, GREEN, RED, GREEN, GREEN)
    judges = Judges(colour_judge(), None, None)
    seen = Evidence(model, judges, [Concept(name="red")], [], pictures, base, after)
    unseen.measure(seen)
    found = {m.name: (m.value, m.n) for m in seen.sheet.metrics if m.concept == "red"}
    assert found == {
        "shown1_held_out": (1, 1),
        "esr1_held_out": (1, 1),
        "shown1_implicit": (pytest.approx(2 / 3), 3),
        "esr1_implicit": (0.5, 2),
        "shown1_unseen": (0.75, 4),
        "esr1_unseen": (pytest.approx(2 / 3), 3),
    }
    assert {m.name: m.n for m in seen.sheet.metrics if m.concept is None}["esr1_unseen"] == 3


def test_what_the_base_model_never_shows_is_not_judged(model: Denoiser):
    pictures = [Picture("red", "erased", "the colour of wrath", 4, kind="implicit")]
    judges = Judges(colour_judge(), None, None)
    seen = Evidence(model, judges, [Concept(name="red")], [], pictures, plain(BLUE), plain(GREEN))
    unseen.measure(seen)
    assert not [m for m in seen.sheet.metrics if m.name.startswith("esr")]
    assert [(m.metric, m.concept) for m in seen.sheet.missing] == [("esr1_unseen", "red")]
    assert "none of 1 pictures" in seen.sheet.missing[0].reason


def test_other_kinds_leave_the_template_figures_as_they_were(model: Denoiser):
    pictures = [Picture("red", "erased", "red", 0), Picture("red", "erased", "x", 1, kind="implicit")]
    seen = Evidence(model, Judges(None, None, None), [], [], pictures, plain(RED, RED), plain(RED, RED))
    assert seen.rows("red").tolist() == [0]
    assert seen.rows("red", "implicit").tolist() == [1]
    assert isinstance(seen.kept, np.ndarray)
    assert not seen.kept.any()
