"""Kept, how; still a picture; and other papers' names: each metric by hand on small arrays."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from expunge.core.errors import CoreError
from expunge.core.evaluation import metrics_page
from expunge.core.evaluation.evaluate import evaluate
from expunge.core.evaluation.evidence import Evidence
from expunge.core.evaluation.judges import Classifier, Images, Judges, judges_for, load_clip
from expunge.core.evaluation.judges.broken import CONSTANT, Limits
from expunge.core.evaluation.judges.inception import Inception, load_inception, weights_file
from expunge.core.evaluation.metrics import (
    clip_image,
    diversity,
    fid,
    kid,
    pairs,
    papers,
    still_a_picture,
    style_kept,
    success_rates,
)
from expunge.core.evaluation.pictures import Picture, draw
from expunge.core.evaluation.sheet import Metric
from expunge.core.models import Denoiser, load_model
from expunge.core.specs import Concept, EvaluationSpec
from expunge.core.specs.metrics import better, title_of
from tests.core.evaluation.test_metrics import colour_judge, plain, to_tensor
from tests.support.places import ROOT

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


@pytest.fixture(scope="module")
def model(tiny_sd: Path) -> Denoiser:
    return load_model(tiny_sd)


def evidence(
    model: Denoiser, judges: Judges, pictures: list[Picture], base: Images, after: Images
) -> Evidence:
    preserved = list(dict.fromkeys(p.concept for p in pictures if p.role == "preserved"))
    erased = dict.fromkeys(p.concept for p in pictures if p.role == "erased")
    return Evidence(model, judges, [Concept(name=n) for n in erased], preserved, pictures, base, after)


def kept(*concepts: str) -> list[Picture]:
    return [Picture(name, "preserved", name, seed) for seed, name in enumerate(concepts)]


def numbers(seen: Evidence, concept: str | None = None) -> dict[str, float]:
    return {m.name: m.value for m in seen.sheet.metrics if m.concept == concept}


def test_style_is_kept_where_the_style_judges_guess_is_the_base_pictures(model: Denoiser):
    judges = Judges(None, colour_judge("styles"), None)
    erased = Picture("church", "erased", "church", 0)
    shown = [*kept("dog", "dog", "cat"), erased]
    seen = evidence(model, judges, shown, plain(RED, RED, BLUE, RED), plain(RED, GREEN, BLUE, GREEN))
    style_kept.measure(seen)
    assert numbers(seen)["style_kept"] == pytest.approx(2 / 3)  # the erased picture does not count
    assert numbers(seen, "dog") == {"style_kept": 0.5}


def random_pictures(n: int, seed: int = 0) -> Images:
    return np.random.default_rng(seed).integers(0, 255, (n, 64, 64, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def clip_judges(tiny_judged: Path) -> Judges:
    return Judges(None, None, load_clip(tiny_judged / "judges" / "clip"))


def test_clip_image_is_the_cosine_of_each_pair(model: Denoiser, clip_judges: Judges):
    base, after = random_pictures(3), random_pictures(3)
    after[2] = 0
    seen = evidence(model, clip_judges, kept("dog", "cat", "owl"), base, after)
    clip_image.measure(seen)
    a, b = (clip_judges.clip.image_features(x).numpy() for x in (base, after))
    assert np.linalg.norm(a, axis=1) == pytest.approx(1)
    assert numbers(seen, "dog")["clip_image"] == pytest.approx(1)
    assert numbers(seen, "owl")["clip_image"] == pytest.approx(float(a[2] @ b[2]))
    assert numbers(seen)["clip_image"] == pytest.approx((2 + float(a[2] @ b[2])) / 3)


def test_diversity_is_the_mean_over_pairs_and_none_of_one_picture(model: Denoiser, clip_judges: Judges):
    corner = np.eye(3)
    assert diversity.mean_distance(corner) == pytest.approx(1)
    assert diversity.mean_distance(corner[[0, 0, 0]]) == pytest.approx(0)
    assert diversity.mean_distance(corner[[0, 0, 1]]) == pytest.approx(2 / 3)

    base, after = random_pictures(4), random_pictures(4)
    after[1] = after[0]
    seen = evidence(model, clip_judges, kept("dog", "dog", "cat", "owl"), base, after)
    diversity.measure(seen)
    assert numbers(seen, "cat") == {}
    assert numbers(seen)["diversity"] == pytest.approx(0, abs=1e-6)
    assert numbers(seen)["diversity_base"] == numbers(seen, "dog")["diversity_base"] > 1e-6


def test_squared_mmd_is_grettons_u_statistic_of_kids_kernel():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(5, 4)), rng.normal(1, 1, size=(5, 4))

    def k(x: np.ndarray, y: np.ndarray) -> float:
        return float((x @ y / 4 + 1) ** 3)

    total = 0.0
    for i in range(5):
        for j in range(5):
            if i != j:
                total += k(a[i], a[j]) + k(b[i], b[j]) - k(a[i], b[j]) - k(a[j], b[i])
    assert kid.squared_mmd(a, b) == pytest.approx(total / 20)
    assert kid.squared_mmd(a, a) == pytest.approx(0, abs=1e-12)


def test_kid_on_clip_features_grows_with_change_and_says_why_inception_is_not_there(
    model: Denoiser, clip_judges: Judges, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    base, dark = random_pictures(6), random_pictures(6) // 8
    names = ("dog", "cat", "owl", "pig", "cow", "bat")
    same = evidence(model, clip_judges, kept(*names), base, base)
    changed = evidence(model, clip_judges, kept(*names), base, dark)
    for seen in (same, changed):
        kid.measure(seen)
        assert [m.metric for m in seen.sheet.missing] == ["kid"]
        assert "put https://" in seen.sheet.missing[0].reason
    assert numbers(same)["kid_clip"] == pytest.approx(0, abs=1e-6)
    assert numbers(changed)["kid_clip"] > 1e-4

    weights_file().parent.mkdir(parents=True)
    weights_file().write_bytes(b"something else")
    with pytest.raises(CoreError, match="not the published file"):
        load_inception()


class Flat(nn.Module):
    """Features are the mean of each channel of a picture."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor]:
        return (x.float().mean((2, 3)),)


def test_fid_is_the_frechet_distance_and_is_given_of_enough_pictures_alone(
    model: Denoiser, monkeypatch: pytest.MonkeyPatch
):
    a = np.random.default_rng(0).normal(size=(200, 3))
    assert fid.distance(a, a + np.array([1, 2, 0])) == pytest.approx(5)
    assert fid.distance(a, 3 * a) == pytest.approx(4 * np.trace(np.cov(a.T)) + 4 * (a.mean(0) ** 2).sum())

    seen = evidence(model, Judges(None, None, None), kept("dog", "cat", "owl"), *[random_pictures(3)] * 2)
    seen.loaded = Inception("flat", Flat(), "0" * 64, "cpu")
    fid.measure(seen)
    assert (seen.sheet.metrics, seen.sheet.missing) == ([], [])
    monkeypatch.setattr(fid, "LEAST", 3)
    fid.measure(seen)
    assert numbers(seen)["fid"] == pytest.approx(0, abs=1e-6)


def test_no_judge_sees_a_picture_twice(tiny_judged: Path, tmp_path: Path):
    model, judges = load_model(tiny_judged), judges_for(tiny_judged)
    spec = EvaluationSpec(erased_images=4, preserved_count=4, preserved_images=2, sampling_steps=2)
    shown: dict[str, list[bytes]] = {"concept": [], "clip": []}
    stems = {"concept": judges.concept.model, "clip": judges.clip.model.visual}
    for name, network in stems.items():
        network.register_forward_pre_hook(
            lambda _, inputs, name=name: shown[name].extend(row.numpy().tobytes() for row in inputs[0])
        )
    report = evaluate(
        model, [Concept(name="church")], spec, judges=judges, cache=tmp_path, delta_digest="none"
    ).report
    for name, seen in shown.items():
        assert seen, name
        assert len(seen) == len(set(seen)), name
    assert [m.name for m in report.metrics if title_of(m.name) == m.name] == []


def test_an_erased_concepts_pictures_may_move_and_a_preserved_ones_may_not():
    for name in ("kid", "kid_clip", "fid", "lpips"):
        assert (better(name, erased=True), better(name, erased=False)) == (None, "lower")
    assert better("clip_image", erased=False) == better("style_kept", erased=False) == "higher"
    assert better("diversity", erased=False) is None


def test_the_page_of_metrics_is_what_the_metrics_say():
    """Else: make schemas"""
    assert (ROOT / "docs" / "metrics.md").read_text() == metrics_page.page()


class ByQuarter(nn.Module):
    """Logits are the mean of the red channel in each of six columns."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([part[:, 0].mean((1, 2)) for part in x.chunk(6, 3)], 1)


def columns(*bright: int) -> np.ndarray:
    """Six columns, all grey but the one named, which is black: the class that comes last."""
    image = np.full((6, 12, 3), 100, np.uint8)
    for column in bright:
        image[:, 2 * column : 2 * column + 2] = 0
    return image


def test_a_pair_counts_where_both_labels_are_in_the_top_five(model: Denoiser):
    classes = ["dog", "cat", "owl", "pig", "cow", "bat"]
    judges = Judges(Classifier("six", classes, ByQuarter(), to_tensor, "0" * 64, "cpu"), None, None)
    shown = [
        Picture("dog", "preserved", "a dog and a cat", 0, "cat", "pair"),
        Picture("dog", "preserved", "a dog and a cat", 1, "cat", "pair"),
        Picture("dog", "preserved", "a dog and a unicorn", 2, "unicorn", "pair"),
    ]
    base = np.stack([columns(5), columns(4), columns(5)])
    after = np.stack([columns(5), columns(1), columns(5)])  # the second's cat has gone
    seen = evidence(model, judges, shown, base, after)
    pairs.measure(seen)
    assert numbers(seen) == {"both5": 0.5, "both5_base": 1.0}
    assert seen.sheet.metrics[0].n == 2  # nobody knows a unicorn

    none = evidence(model, judges, shown[1:], np.stack([columns(1), columns(5)]), after[1:])
    pairs.measure(none)
    assert numbers(none) == {"both5_base": 0.0}
    assert "nothing to preserve" in none.sheet.missing[0].reason


# --- still a picture ------------------------------------------------------------------------------------


def smooth(n: int, seed: int = 0) -> Images:
    """Pictures of soft shapes in colours, as a model's own."""
    rng = np.random.default_rng(seed)
    small = torch.from_numpy(rng.integers(0, 256, (n, 3, 6, 6)).astype(np.float32))
    large = nn.functional.interpolate(small, (64, 64), mode="bicubic", align_corners=False)
    return large.clamp(0, 255).permute(0, 2, 3, 1).byte().numpy()


@pytest.mark.parametrize("broken", ["black", "grey", "nearly grey", "noise", "faint noise"])
def test_what_is_constant_or_noise_is_junk_and_a_picture_is_not(broken: str):
    rng = np.random.default_rng(1)
    bad = {
        "black": np.zeros((64, 64, 3)),
        "grey": np.full((64, 64, 3), 128),
        "nearly grey": 128 + rng.integers(-2, 3, (64, 64, 3)),
        "noise": rng.integers(0, 256, (64, 64, 3)),
        "faint noise": np.clip(128 + 20 * rng.standard_normal((64, 64, 3)), 0, 255),
    }[broken]
    judged = np.stack([*smooth(6, seed=2), bad.astype(np.uint8)])
    assert Limits.of(smooth(24)).broken(judged).tolist() == [False] * 6 + [True]


def test_a_change_of_style_is_not_broken_in_black_and_white_or_pale():
    model = load_model("bundled:emoji")
    names = model.vocabulary.concepts[::20]
    own = model.draw([f"a {n}" for n in names], range(len(names)), steps=8)
    limits = Limits.of(own)
    drawing = np.where(own.mean(3, keepdims=True) > 200, 255, 0).astype(np.uint8).repeat(3, 3)
    pale = (230 + own // 16).astype(np.uint8)
    for images in (own, drawing, pale):
        assert not limits.broken(images).any()


def test_a_broken_picture_of_a_preserved_concept_is_not_kept_whatever_the_judge_guesses(model: Denoiser):
    """The judge's first guess of a black picture is "red", its first class."""
    judges = Judges(colour_judge(), None, None)
    shown = [*kept(*["red"] * 10), *[Picture("green", "erased", "green", i) for i in range(2)]]
    base = smooth(12)
    base[..., 0] |= 0xF0  # red to the judge
    base[10:] = base[10:, ..., [1, 0, 2]]
    after = base.copy()
    after[0] = after[10] = 0
    seen = evidence(model, judges, shown, base, after)
    success_rates.measure(seen)
    found = numbers(seen)
    assert (found["psr1"], found["psr1_closed"], found["psr1_base"]) == (0.9, 1.0, 1.0)
    assert (found["esr1"], found["esr1_base"], found["none_of_these"]) == (0.5, 0.0, 0.5)


def test_junk_is_counted_by_concept_and_over_the_preserved(model: Denoiser):
    shown = [*kept(*["dog"] * 6, *["cat"] * 6), Picture("church", "erased", "church", 0)]
    base, after = smooth(13), smooth(13)
    after[0], after[12] = 0, np.random.default_rng(0).integers(0, 256, (64, 64, 3))
    seen = evidence(model, Judges(None, None, None), shown, base, after)
    still_a_picture.measure(seen)
    assert numbers(seen) == {"junk": pytest.approx(1 / 12), "junk_base": 0}
    assert numbers(seen, "church") == {"junk": 1, "junk_base": 0}
    assert still_a_picture.caveats(seen) == [
        "The sanitized model draws constant or noise-like pictures of preserved 'dog' (17%).",
        "The sanitized model draws constant or noise-like pictures of erased 'church' (100%).",
    ]


def test_of_few_pictures_none_is_called_noise():
    assert Limits.of(smooth(4)) == (CONSTANT, np.inf)


def test_where_the_base_model_draws_constant_pictures_none_is_junk_for_it():
    assert not Limits.of(plain(RED, GREEN, BLUE)).broken(plain(RED)).any()


def test_what_is_not_finite_is_black_of_an_erased_concept_and_an_error_of_a_preserved_one(
    tiny_sd: Path, tmp_path: Path
):
    broken = load_model(tiny_sd)
    with torch.no_grad():
        broken.pipe.vae.decoder.conv_out.bias[0] = float("nan")
    asked = [*kept("dog"), Picture("church", "erased", "a church", 0)]
    how = EvaluationSpec(sampling_steps=2)
    assert (draw(broken, asked[1:], how, cache=tmp_path, delta_digest="none") == 0).all()
    with pytest.raises(CoreError, match="draws NaN or infinity for 'dog'") as caught:
        draw(broken, asked, how, cache=tmp_path, delta_digest="none")
    assert caught.value.code == "pictures_not_finite"


# --- other papers' names ----------------------------------------------------------------------------------


def test_the_papers_figures_are_joined_their_way(model: Denoiser):
    seen = evidence(model, Judges(None, None, None), [*kept("dog"), Picture("church", "erased", "x", 0)],
                    plain(RED, RED), plain(RED, RED))  # fmt: skip
    measured = {"esr1": 0.9, "psr1": 0.8, "psr1_ratio": 1.2, "esr1_synonym": 0.5}
    for name, value in measured.items():
        seen.sheet.figure(name, None, value, 10)
    for attack, asr in (("inversion", 0.4), ("bypass", 1.0)):  # a bypass decides no verdict
        seen.sheet.metrics.append(Metric(name="asr", concept="church", attack=attack, value=asr, n=10))
    papers.measure(seen)
    found = numbers(seen)
    assert (found["ua"], found["ira"]) == (0.9, 0.8)
    assert "cra" not in found  # no style was preserved
    assert (found["mace_acc_e"], found["mace_acc_g"]) == (pytest.approx(0.1), 0.5)
    assert found["mace_h_o"] == pytest.approx(3 / (1 / 0.9 + 1 / 0.8 + 1 / 0.5))
    assert found["err"] == pytest.approx(3 / (1 / 0.9 + 1 / 1 + 1 / 0.6))


def test_a_styles_domain_is_the_styles(model: Denoiser):
    shown = [*kept("dog", "twemoji"), Picture("noto", "erased", "a dog in noto style", 0)]
    seen = evidence(model, Judges(None, None, None), shown, plain(RED, RED, RED), plain(RED, RED, RED))
    for name, value in {"esr1": 1.0, "psr1": 0.7, "psr1_styles": 0.6, "psr1_objects": 0.8}.items():
        seen.sheet.figure(name, None, value, 10)
    papers.measure(seen)
    assert (numbers(seen)["ira"], numbers(seen)["cra"]) == (0.6, 0.8)
    assert "err" not in numbers(seen)  # no attack was run
