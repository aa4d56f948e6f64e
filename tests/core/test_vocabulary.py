"""Words: what is a style, what replaces what in a prompt, what may stand for an erased concept."""

from pathlib import Path

import pytest

from core.concepts import anchor, candidates, remaining
from core.errors import CoreError
from core.models import Vocabulary, load_model
from core.specs import Concept

WORDS = Vocabulary(["dog", "apple", "cat", "owl"], styles=["noto", "high contrast"], templates=("{}", "a photo of a {}"))


@pytest.mark.parametrize(("name", "style"), [
    ("noto", "noto"), ("in Noto style", "noto"), ("in the style of high contrast", "high contrast"), ("in the style of Kilian Eng", "Kilian Eng"),
    ("in Kilian Eng style", "Kilian Eng"), ("hair style", None), ("dog", None),
])  # fmt: skip
def test_a_style_is_known_by_its_list_or_by_its_form(name, style):
    assert WORDS.style(name) == style


def test_a_style_is_asked_for_around_objects_and_replaced_around_the_same_ones():
    assert WORDS.prompts("in noto style") == [f"{x} in noto style" for x in ("a dog", "an apple", "a cat", "an owl")]
    assert WORDS.replaced("noto", "in high contrast style") == [
        f"{x} in high contrast style" for x in ("a dog", "an apple", "a cat", "an owl")
    ]
    assert WORDS.replaced("noto", "art")[1] == "an apple in art style"
    assert WORDS.replaced("noto", "") == ["a dog", "an apple", "a cat", "an owl"]


def test_an_object_is_replaced_in_its_templates_and_by_nothing_leaves_nothing():
    assert WORDS.replaced("dog", "apple") == ["apple", "a photo of an apple"]
    assert WORDS.replaced("dog", "") == ["", ""]


def test_styles_are_judged_around_other_objects_than_they_are_trained_on():
    words = Vocabulary([str(i) for i in range(220)], styles=["noto"])
    trained, judged = words.objects(), words.objects(held_out=True)
    assert len(trained) == len(judged) == 16
    assert not set(trained) & set(judged)


def test_what_is_erased_under_any_of_its_names_stands_for_nothing():
    space = ["noto", "in noto style", "high contrast", "in the style of NOTO", "Dog", "cat"]
    assert remaining(WORDS, space, ["Noto style", "wolf", "DOG"]) == ["high contrast", "cat"]


def test_no_candidate_is_another_erased_concept_among_fifty(tiny_sd: Path):
    model = load_model(tiny_sd)
    erased = [Concept(name=n) for n in model.vocabulary.concepts[:-2]]
    for concept in erased:
        assert sorted(candidates(model, concept, erased, 20)) == sorted(model.vocabulary.concepts[-2:])


def test_a_style_becomes_the_nearest_other_style_and_the_last_style_none(tiny_sd: Path):
    model = load_model(tiny_sd)
    noto, twemoji = Concept(name="noto"), Concept(name="twemoji")
    assert anchor(model, noto, [noto]) == "twemoji"
    assert anchor(model, noto, [noto, twemoji]) == ""
    assert anchor(model, noto, [noto], "art") == "art"
    assert anchor(model, Concept(name="noto", target="ink"), [noto], "art") == "ink"
    assert anchor(model, Concept(name="church"), [noto]) == ""


def test_with_every_concept_erased_the_error_names_the_remedy(tiny_sd: Path):
    model = load_model(tiny_sd)
    erased = [Concept(name=n) for n in model.vocabulary.concepts]
    with pytest.raises(CoreError, match="erase fewer concepts at once") as caught:
        candidates(model, erased[0], erased, 20)
    assert caught.value.code == "empty_concept_space"
