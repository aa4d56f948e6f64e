"""Words: what is a style, what replaces what in a prompt, what may stand for an erased concept."""

from pathlib import Path

import pytest

from expunge.core.concepts import candidates, remaining, resolve_target
from expunge.core.concepts.spaces import words_of
from expunge.core.errors import CoreError
from expunge.core.evaluation.pictures import preserved_concepts
from expunge.core.models import Denoiser, Vocabulary, load_model
from expunge.core.specs import Concept, EvaluationSpec
from tests.support import customer_models

WORDS = Vocabulary(
    ["dog", "apple", "cat", "owl"], styles=["noto", "high contrast"], templates=("{}", "a photo of a {}")
)


@pytest.mark.parametrize(
    ("name", "style"),
    [
        ("noto", "noto"),
        ("in Noto style", "noto"),
        ("in the style of high contrast", "high contrast"),
        ("in the style of Kilian Eng", "Kilian Eng"),
        ("in Kilian Eng style", "Kilian Eng"),
        ("hair style", None),
        ("dog", None),
    ],
)
def test_a_style_is_known_by_its_list_or_by_its_form(name, style):
    assert WORDS.style(name) == style


def test_a_style_is_asked_for_around_objects_and_replaced_around_the_same_ones():
    assert WORDS.prompts("in noto style") == [
        f"{x} in noto style" for x in ("a dog", "an apple", "a cat", "an owl")
    ]
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
    assert resolve_target(model, noto, [noto]) == "twemoji"
    assert resolve_target(model, noto, [noto, twemoji]) == ""
    assert resolve_target(model, noto, [noto], "art") == "art"
    assert resolve_target(model, Concept(name="noto", target="ink"), [noto], "art") == "ink"
    assert resolve_target(model, Concept(name="church"), [noto]) == ""


def test_with_every_concept_erased_the_error_names_the_remedy(tiny_sd: Path):
    model = load_model(tiny_sd)
    erased = [Concept(name=n) for n in model.vocabulary.concepts]
    with pytest.raises(CoreError, match="erase fewer concepts at once") as caught:
        candidates(model, erased[0], erased, 20)
    assert caught.value.code == "empty_concept_space"


# --- a model that says nothing of what it draws
# -----------------------------------------------------------------------


@pytest.fixture
def silent(tiny_sd: Path, tmp_path: Path) -> Denoiser:
    """A model without a vocabulary, as one of the hub's is."""
    folder = customer_models.copy(tmp_path / "silent", of=tiny_sd)
    (folder / "vocabulary.json").unlink()
    return load_model(folder)


@pytest.mark.parametrize("name", ["in the style of Van Gogh", "Vincent van Gogh", "in van gogh style"])
def test_an_artist_has_other_artists_for_targets_and_never_himself(silent: Denoiser, name: str):
    artist = Concept(name=name)
    found = candidates(silent, artist, [artist], 20)
    assert len(found) == len(set(found)) == 20
    assert set(found) <= set(silent.vocabulary.styles)
    assert not any("gogh" in other.casefold() for other in found)
    assert resolve_target(silent, artist, [artist]) == found[0]


def test_an_artist_is_asked_for_as_prompts_do_with_and_without_an_object(silent: Denoiser):
    prompts = silent.vocabulary.prompts("in the style of Van Gogh")
    assert {"a painting in the style of Van Gogh", "a painting by Van Gogh"} <= set(prompts)
    assert any(
        prompt.endswith(" in the style of Van Gogh") and "painting" not in prompt for prompt in prompts
    )
    for prompt, other, none, place in zip(
        prompts,
        silent.vocabulary.replaced("in the style of Van Gogh", "Claude Monet"),
        silent.vocabulary.replaced("in the style of Van Gogh", ""),
        silent.vocabulary.places("in the style of Van Gogh"),
        strict=True,
    ):
        assert prompt[slice(*place)] == "Van Gogh"
        assert other == prompt.replace("Van Gogh", "Claude Monet")
        assert prompt.startswith(none)
        assert not none.endswith((" by", " of", " {}"))


def test_other_artists_are_judged_beside_the_one_that_is_erased(silent: Denoiser):
    judged = preserved_concepts(
        silent, [Concept(name="in the style of Van Gogh")], [], EvaluationSpec(preserved_count=8)
    )
    artists = [name for name in judged if silent.vocabulary.style(name)]
    assert len(artists) == 4
    assert not any("gogh" in name.casefold() for name in judged)


def test_an_object_ranges_over_english_nouns_where_the_model_has_no_vocabulary(
    silent: Denoiser, tiny_sd: Path
):
    church = Concept(name="church")
    assert words_of(silent, "model", "church") == words_of(silent, "english", "church")
    assert len(candidates(silent, church, [church], 4000)) > 3000
    # What is held and judged: no 'bullettrain side'
    assert set(silent.vocabulary.concepts) < set(words_of(silent, "english", ""))
    assert len(words_of(load_model(tiny_sd), "model", "church")) == 11
