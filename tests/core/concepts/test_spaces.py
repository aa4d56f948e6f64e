"""Concept spaces: what is in them, who is never a candidate, and how many words are encoded."""

import pytest
import torch

from expunge.core.concepts import candidates, distances, nearest
from expunge.core.concepts.embeddings import eos_states
from expunge.core.concepts.spaces import clip_words, english, words_of
from expunge.core.errors import CoreError
from expunge.core.models import load_model
from expunge.core.specs import AgeSpec, Concept
from expunge.core.specs.inflections import variant_of


@pytest.fixture
def model(tiny_sd):
    return load_model(tiny_sd)


def test_english_is_a_list_of_plain_distinct_nouns():
    words = english()
    assert len(words) == len(set(words)) == 3597
    assert {"church", "mosque", "dog", "teapot", "trumpet"} <= set(words)
    assert all(w.isalpha() and w == w.lower() for w in words)


def test_the_clip_space_holds_whole_words_of_the_models_own_tokenizer(model):
    words = clip_words(model)
    vocabulary = model.pipe.tokenizer.get_vocab()
    assert "church" in words
    assert all(f"{w}</w>" in vocabulary and w.isalpha() for w in words)
    assert [vocabulary[f"{w}</w>"] for w in words] == sorted(vocabulary[f"{w}</w>"] for w in words)
    assert not any(w.startswith("<") for w in words)


@pytest.mark.parametrize(
    "word",
    [
        "church",
        "Church",
        "CHURCHES",
        "churches",
        "church's",
        "Churches’",
        "churched",
        "churching",
        "sailing boat",
        "Sailing-Boats",
        "wolves",
        "mice",
        "cherry",
        "Cherries",
        "buses",
        "man's",
        "tomatoes",
        "sawing",
        "planned",
        "baking",
    ],
)
def test_inflections_are_the_concept_itself(word):
    erased = [
        "church",
        "sailing boat",
        "wolf",
        "mouse",
        "cherries",
        "bus",
        "men",
        "tomato",
        "saw",
        "plan",
        "bake",
    ]
    assert variant_of(erased)(word)


@pytest.mark.parametrize(
    "word",
    ["churchyard", "mosque", "boat", "wolfram", "house", "cheer", "busy", "mane", "seesaw", "plant", "cake"],
)
def test_other_words_are_not(word):
    assert not variant_of(
        ["church", "sailing boat", "wolf", "mouse", "cherries", "bus", "men", "tomato", "saw", "plan", "bake"]
    )(word)


@pytest.mark.parametrize(
    "space", ["model", "english", "clip", ["Churches", "castle", "mosque", "castle", "mosques", "teapot"]]
)
def test_no_space_offers_the_concept_or_a_form_of_it(space, model):
    church = Concept(name="church", synonyms=["mosque"])
    found = nearest(model, church, [church], space)
    assert found
    assert not set(found) & {"church", "Churches", "churches", "mosque", "mosques"}
    assert set(found) <= set(words_of(model, space, "church"))
    assert len(found) == len(set(found))


def test_candidates_come_by_distance_of_the_end_states(model):
    church = Concept(name="church")
    found = candidates(model, church, [church], 5)
    words = model.vocabulary.targets("church")
    prompts = [f"a photo of a {w}" for w in ("church", *words)]
    ends = [len(ids) - 1 for ids in model.text.token_ids(prompts)]
    states = model.encode(prompts).states[range(len(prompts)), ends].double()
    away = (states[1:] - states[0]).norm(dim=1)
    assert found == [words[i] for i in away.argsort()[:5]]


def test_a_space_of_nothing_but_the_concept_is_refused(model):
    church = Concept(name="church")
    with pytest.raises(CoreError, match="name others") as caught:
        nearest(model, church, [church], ["church", "Churches"])
    assert caught.value.field == "method.concept_space"


def test_a_large_space_is_encoded_once_in_batches_with_progress_and_kept_on_disk(tiny_sd, tmp_path):
    words, reports = list(english()[:600]), []
    model = load_model(tiny_sd)
    model.cache = tmp_path
    states = eos_states(model, words, reports.append)
    assert [r["step"] for r in reports] == [*range(64, 600, 64), 600]
    assert all(r["total"] == 600 for r in reports)

    again = load_model(tiny_sd)
    again.cache = tmp_path
    torch.testing.assert_close(
        eos_states(again, words, lambda _: pytest.fail("encoded again")), states, rtol=0, atol=0
    )
    torch.testing.assert_close(
        distances(again, words[0], words[:3]), (states[:3] - states[0]).square().sum(1).sqrt(), rtol=0, atol=0
    )


def test_the_default_space_and_null_mean_the_models_own():
    assert AgeSpec().concept_space == AgeSpec(concept_space=None).concept_space == "model"
    with pytest.raises(ValueError, match="'french' is not a concept space"):
        AgeSpec(concept_space="french")
