"""Which judge a concept has, and what a judge that can say "none of these" does to each rate."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from expunge.core.errors import CoreError
from expunge.core.evaluation.evidence import Evidence
from expunge.core.evaluation.judges import Classifier, Judges, judges_for
from expunge.core.evaluation.judges.choose import find_judge
from expunge.core.evaluation.judges.zero_shot import zero_shot
from expunge.core.evaluation.metrics import success_rates
from expunge.core.evaluation.pictures import Picture
from expunge.core.evaluation.sights import look_through
from expunge.core.models import load_model
from expunge.core.specs import Concept

SEEN = {"church": 0, "dog": 1, "junk like a church": 0, "junk like a dog": 1}  # picture -> first guess


class Told(nn.Module):
    """Classifies a picture by its first pixel: the class, and, in green, whether it is junk."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.one_hot(x[:, 0, 0, 0].long(), 7).float()


class Rejecting(Classifier):
    def sees_none(self, images: np.ndarray) -> np.ndarray:
        return images[:, 0, 0, 1] == 1


def pixels(image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def picture(shown: str) -> np.ndarray:
    image = np.zeros((4, 4, 3), np.uint8)
    image[0, 0] = SEEN[shown], shown.startswith("junk"), 0
    return image


def evidence(model, kind: type[Classifier], sanitized: list[str]) -> Evidence:
    """Pictures of church, to be erased, and as many of dog, to be kept; the base model draws all rightly."""
    judge = kind("told", ["church", "dog", "a", "b", "c", "d", "e"], Told(), pixels, "0" * 64, "cpu")
    asked = [name for name in ("church", "dog") for _ in range(len(sanitized) // 2)]
    pictures = [Picture(c, "erased" if c == "church" else "preserved", c, i) for i, c in enumerate(asked)]
    base, drawn = (np.stack([picture(p) for p in row]) for row in (asked, sanitized))
    return Evidence(
        model, Judges(judge, None, None), [Concept(name="church")], ["dog"], pictures, base, drawn
    )


DRAWN = ["junk like a church", "dog", "dog", "junk like a dog"]


def test_junk_is_not_preserved_and_an_erased_picture_counts_by_the_first_guess(tiny_sd: Path):
    seen = evidence(load_model(tiny_sd), Rejecting, DRAWN)
    success_rates.measure(seen)
    found = {(m.name, m.concept): m.value for m in seen.sheet.metrics}
    assert (found["esr1", "church"], found["esr1_open", "church"]) == (0.5, 1.0)
    assert (found["psr1", "dog"], found["psr1_closed", "dog"]) == (0.5, 1.0)
    assert (found["none_of_these", "church"], found["none_of_these_base", "church"]) == (0.5, 0.0)
    assert found["none_of_these", None] == 0.5
    assert ("none_of_these", "dog") not in found
    assert found["psr1_ratio", None] == 0.5


def test_a_concept_that_is_gone_but_not_replaced_by_a_picture_is_named(tiny_sd: Path):
    for junk, named in ((10, True), (1, False)):
        church = ["junk like a dog"] * junk + ["dog"] * (12 - junk)
        seen = evidence(load_model(tiny_sd), Rejecting, [*church, *["dog"] * 12])
        success_rates.measure(seen)
        notes = success_rates.caveats(seen)
        assert bool(notes) is named
        assert all(
            "Of 83% of 12 pictures of 'church' the judge says 'none of these' (0% of" in n for n in notes
        )


def test_to_a_judge_that_must_name_a_class_only_broken_pictures_show_nothing(tiny_sd: Path):
    seen = evidence(load_model(tiny_sd), Classifier, DRAWN)
    success_rates.measure(seen)
    found = {(m.name, m.concept): m.value for m in seen.sheet.metrics}
    assert (found["esr1", "church"], found["psr1", "dog"]) == (0.5, 1.0)
    assert (found["esr1_open", "church"], found["psr1_closed", "dog"]) == (0.5, 1.0)
    assert (found["none_of_these", "church"], found["none_of_these_base", "church"]) == (0, 0)


def test_zero_shot_answers_with_the_text_nearest_to_the_picture(tiny_judged: Path):
    model, clip = load_model(tiny_judged), judges_for(tiny_judged).clip
    images = np.random.default_rng(0).integers(0, 255, (6, 64, 64, 3), dtype=np.uint8)
    judge = zero_shot(
        ["Zeppelin", "airship"], clip, model, ["airship", "dog", "teapot", "wolf", "in noto style"]
    )
    assert judge.texts == [
        "a photo of Zeppelin",
        "a photo of an airship",
        "a photo of a dog",
        "a photo of a teapot",
        "a photo of a wolf",
        "a picture in noto style",
    ]
    assert judge.among == 5
    nearest = np.stack([clip.cosine(images, [text] * len(images)) for text in judge.texts]).argmax(0)
    assert judge.look(images).closed[1].tolist() == (nearest < 2).tolist()
    assert judge.look(images).none is None


def test_nobody_can_judge_a_learned_word_without_a_class_and_the_message_says_what_to_do(tiny_judged: Path):
    model, judges = load_model(tiny_judged), judges_for(tiny_judged)
    model.learn("<my-face>", torch.zeros(1, 32))
    with pytest.raises(CoreError, match=r"learned word.*evaluation\.judge"):
        find_judge(["<my-face>"], judges, model)
    assert find_judge(["<my-face>", "church"], judges, model).kind == "classifier"
    with pytest.raises(CoreError, match=r"no judge has a class for 'blimp'; no hub.*fetch-judges"):
        find_judge(["blimp"], replace(judges, clip=None, missing={"clip": "no hub"}), model)


def test_what_is_seen_in_each_picture_is_counted_as_the_rates_count_it(tiny_sd: Path):
    evidence_ = evidence(load_model(tiny_sd), Rejecting, DRAWN)
    found = look_through(evidence_)
    assert [(s.guess, s.none, s.shows) for s in found[""]] == [
        ("church", True, True),
        ("dog", False, False),
        ("dog", False, True),
        ("dog", True, False),
    ]
    assert all(s.shows and not s.none for s in found["_base"])
    success_rates.measure(evidence_)
    rates = {(m.name, m.concept): m.value for m in evidence_.sheet.metrics}
    assert rates["esr1", "church"] == 1 - np.mean([s.shows for s in found[""][:2]])
    assert rates["psr1", "dog"] == np.mean([s.shows for s in found[""][2:]])
    # An edited concept has its target beside it
    evidence_.erased = [Concept(name="church", target="dog")]
    edited = look_through(evidence_)[""]
    assert [s.target.shows for s in edited[:2]] == [False, True]
    assert [s.target for s in edited[2:]] == [None, None]
    # One of seven answers has the logit 1, the others 0
    assert found[""][0].sure == pytest.approx(np.e / (np.e + 6))
    assert found[""][1].sure == pytest.approx(1 / (np.e + 6))


def test_zero_shot_gives_the_probability_of_the_concept_by_the_nearest_of_its_names(tiny_judged: Path):
    model, judges = load_model(tiny_judged), judges_for(tiny_judged)
    judge = zero_shot(["church", "chapel"], judges.clip, model, ["dog", "castle"])
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    found = judge.guesses(images)
    assert found.answers == ["a photo of a church", "a photo of a dog", "a photo of a castle"]
    assert found.shares.shape == (3, 3)
    assert found.shares.sum(axis=1) == pytest.approx(1)
    assert ((found.shares.argmax(axis=1) == 0) == judge.look(images).closed[1]).all()
