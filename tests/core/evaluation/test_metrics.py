"""Each metric against a hand count, on judges whose answers are known."""

from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image
from torch import Tensor, nn

from expunge.core import intervals
from expunge.core.errors import CoreError
from expunge.core.evaluation.judges import Classifier, Judges, judges_for, load_classifier, load_clip
from expunge.core.evaluation.judges.by_class import find_class
from expunge.core.evaluation.judges.concept_judge import top_k
from expunge.core.evaluation.metrics import clip_score, lpips, nudity
from expunge.core.models import Vocabulary
from expunge.core.specs.nudity import PROTOCOLS, conventions

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


class ByColour(nn.Module):
    """Logits are the mean of each colour channel."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


def to_tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255


def colour_judge(name: str = "colour") -> Classifier:
    return Classifier(name, list(COLOURS), ByColour(), to_tensor, "0" * 64, "cpu")


def plain(*colours: tuple[int, int, int]) -> np.ndarray:
    return np.stack([np.full((8, 8, 3), c, np.uint8) for c in colours])


def test_top_k_hits_are_counted_from_the_ranks_of_the_label():
    judge = find_class(["green"], Judges(colour_judge(), None, None), Vocabulary([]))
    seen = judge.look(plain((0, 255, 0), (255, 100, 0), (200, 10, 100)))
    assert seen.closed[1].tolist() == [True, False, False]
    assert list(seen.closed) == [1]  # three classes: all are among the first five, whatever is drawn
    scores = np.array([[6.0, 5, 4, 3, 2, 1], [1, 2, 3, 4, 5, 6]])
    assert [hit.tolist() for hit in top_k(scores, [0]).values()] == [[True, False], [True, False]]


def test_a_style_is_judged_by_the_style_judge_under_any_of_its_names():
    judges = Judges(colour_judge("concepts"), colour_judge("styles"), None)
    vocabulary = Vocabulary(["red"], styles=["blue"])
    for name in ("blue", "in blue style", "Blue style"):
        assert find_class([name], judges, vocabulary).judge.name == "styles"
    assert find_class(["red"], judges, vocabulary).judge.name == "concepts"


def test_an_unknown_concept_has_the_class_of_a_synonym_or_none():
    judges = Judges(colour_judge(), None, None)
    assert find_class(["crimson", "red"], judges, Vocabulary([])).index == 0
    assert find_class(["crimson"], judges, Vocabulary([])) is None
    # A style, and no style judge
    assert find_class(["blue"], judges, Vocabulary([], styles=["blue"])) is None


def test_wilson_agrees_with_published_values():
    assert intervals.wilson(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert intervals.wilson(0, 24) == pytest.approx((0.0, 0.1380), abs=1e-4)
    low, high = intervals.wilson(24, 24)
    assert (low, high) == pytest.approx((0.8620, 1.0), abs=1e-4)


def test_the_bootstrap_covers_a_mean_and_repeats():
    values = np.random.default_rng(1).normal(5, 1, 400)
    low, high = intervals.of_mean(values)
    assert (low, high) == intervals.of_mean(values)
    assert values.mean() - low == pytest.approx(1.96 * values.std() / 20, rel=0.15)
    assert low < values.mean() < high


def test_a_ratio_of_equal_samples_is_as_wide_as_the_share_that_was_kept():
    hits = np.array([True, False, True, True])
    assert intervals.of_ratio(hits, hits) == (pytest.approx(intervals.wilson(3, 3)[0]), 1.0)


def test_judges_load_from_a_folder(tiny_judged: Path):
    judges = judges_for(tiny_judged)
    assert judges.missing == {}
    assert judges.concept.classes[0] == "church"
    assert judges.style.classes == ["noto", "twemoji"]
    images = np.random.default_rng(0).integers(0, 255, (3, 64, 64, 3), dtype=np.uint8)
    assert judges.concept.logits(images).shape == (3, 12)
    assert set(judges.digests()) == {"concept (concept)", "style (style)", "clip (open_clip clip)"}
    assert len(set(judges.digests().values())) == 3


def test_a_picture_of_another_size_is_resized_to_the_judges_own(tiny_judged: Path):
    judge = load_classifier(tiny_judged / "judges" / "concept")
    assert judge.transform(Image.new("RGB", (200, 100))).shape == (3, 64, 64)


def test_a_judge_that_cannot_be_had_is_missing_with_a_reason():
    judges = judges_for("someone/some-model")
    assert judges.concept is None
    assert judges.clip is None
    assert "resnet50.tv2_in1k" in judges.missing["concept"]
    assert "ViT-B-32" in judges.missing["clip"]
    with pytest.raises(CoreError, match="cannot be had"):
        load_classifier("no_such_network")


def test_clip_scores_are_the_scaled_positive_cosines(tiny_judged: Path):
    clip = load_clip(tiny_judged / "judges" / "clip")
    images = np.random.default_rng(0).integers(0, 255, (5, 64, 64, 3), dtype=np.uint8)
    prompts = ["church", "a dog", "a photo of a cat", "teapot", "a wolf"]
    with torch.inference_mode():
        picture = clip.model.encode_image(torch.stack([clip.transform(Image.fromarray(i)) for i in images]))
        text = clip.model.encode_text(clip.tokenize(prompts))
        expected = 100 * torch.cosine_similarity(picture, text).clamp(min=0)
    assert clip_score.clip_scores(clip, images, prompts) == pytest.approx(expected.numpy(), abs=1e-4)


def test_nudenet_finds_the_astronauts_face_and_nothing_exposed():
    picture = skimage.data.astronaut()
    (found,) = nudity.detect(picture[None])
    faces = [d for d in found if d["class"].startswith("FACE")]
    assert faces
    x, y, w, h = faces[0]["box"]
    assert x < 224 < x + w  # her face is at about (224, 110) of 512
    assert y < 110 < y + h
    assert not any(nudity.exposed([found], each).any() for each in PROTOCOLS.values())


def test_an_array_is_seen_exactly_as_the_same_file(tmp_path: Path):
    picture = skimage.data.astronaut()
    Image.fromarray(picture).save(tmp_path / "astronaut.png")
    from_file = nudity.detector().detect(str(tmp_path / "astronaut.png"))
    assert [(d["class"], d["box"]) for d in nudity.detect(picture[None])[0]] == [
        (d["class"], d["box"]) for d in from_file
    ]


def test_the_detectors_file_is_the_pinned_one():
    assert nudity.model_digest() == nudity.SHA256


def test_every_convention_is_computed_from_the_same_raw_detections():
    def one(name: str, score: float) -> list[nudity.Detection]:
        return [{"class": name, "score": score, "box": [0, 0, 1, 1]}]

    stored = [
        one("BELLY_EXPOSED", 0.46),
        one("ANUS_EXPOSED", 0.9),
        one("FACE_FEMALE", 0.99),
        one("FEET_EXPOSED", 0.3),
        [],
    ]
    rates = {name: nudity.exposed(stored, each).tolist() for name, each in conventions([0.46]).items()}
    # ANUS_EXPOSED is not among AP's eight; 0.3 is not above 0.3
    assert rates["ner_0.3"] == [True, False, False, False, False]
    assert rates["ner_0.5"] == [False] * 5
    assert rates["ner_unlearndiffatk"] == [True, True, False, False, False]
    assert rates["ner_library"] == [True, True, False, True, False]
    # One's own threshold, with either list of classes
    assert rates["ner_0.46"] == [False] * 5
    assert rates["ner9_0.46"] == rates["ner9_0.6"] == [False, True, False, False, False]


def test_lpips_says_why_it_is_not_available(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert "AlexNet's weights are not in torch hub's cache" in lpips.unavailable()
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    (tmp_path / "hub" / "checkpoints" / "alexnet-owt-7be5be79.pth").touch()
    assert lpips.unavailable() is None


def test_lpips_is_zero_for_a_picture_and_itself_and_grows_with_change():
    net = lpips.network(random_trunk=True)
    a = np.random.default_rng(0).integers(0, 255, (2, 64, 64, 3), dtype=np.uint8)
    b = a.copy()
    b[1, 16:48, 16:48] = 0
    assert lpips.distances(net, a, b) == pytest.approx([0, lpips.distances(net, a[1:], b[1:])[0]], abs=1e-6)
    assert lpips.distances(net, a, b)[1] > 1e-4
