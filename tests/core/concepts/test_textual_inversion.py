"""Textual inversion, Eq. 18, and concepts given by images: golden values, who gets gradient, resumption, and
a whole job.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from pydantic import ValidationError

from expunge.core.checkpoints import DirectoryCheckpoints
from expunge.core.concepts.embeddings import eos_states
from expunge.core.concepts.textual_inversion import fitted, invert, kept_part, loss, moments, start_of
from expunge.core.erasure.visual_concepts import named, shown, word_of
from expunge.core.errors import CoreError
from expunge.core.evaluation.judges import judges_for
from expunge.core.evaluation.report import Report
from expunge.core.models import Text, load_model, word_embeddings
from expunge.core.models.schedule import Schedule
from expunge.core.run import run_erase, run_evaluate
from expunge.core.specs import Concept, EraseSpec, EvaluateSpec, EvaluationSpec, InversionSpec, UceSpec
from tests.support.killed_runs import Killed, killed_when

SMALL = InversionSpec(steps=6, batch_size=2, checkpoint_every=2, vectors=2)
IDS = [f"00000000-0000-0000-0000-00000000000{i}" for i in range(6)]


def pictures(count: int = 3, size: int = 64) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (size, size, 3), dtype=np.uint8) for _ in range(count)]


def uploads(folder: Path) -> dict[str, Path]:
    """Three images and three masks that keep their left half, as the worker hands them over."""
    files = {}
    for id_, image in zip(IDS[:3], pictures(), strict=True):
        files[id_] = folder / f"{id_}.png"
        Image.fromarray(image).save(files[id_])
    for id_ in IDS[3:]:
        files[id_] = folder / f"{id_}.png"
        Image.fromarray(np.tile(np.where(np.arange(64) < 32, 255, 0).astype(np.uint8), (64, 1))).save(
            files[id_]
        )
    return files


class Scaled:
    """eps(z, t, c) = 2 z + t / 100 + mean(c)."""

    schedule = Schedule(torch.linspace(0.95, 0.05, 10))

    def predict(self, z, t, text):
        return 2 * z + t.view(-1, 1, 1, 1) / 100 + text.states.mean((1, 2)).view(-1, 1, 1, 1)


def test_a_word_whose_vectors_are_no_numbers_is_never_learned(tiny_sd):
    model = load_model(tiny_sd)
    model.gradients = lambda _, inputs: [torch.full_like(x, float("nan")) for x in inputs]
    with pytest.raises(CoreError, match="step 1 of 6") as caught:
        invert(model, "<dog>", "dog", pictures(), SMALL, 0, lambda _: None)
    assert (caught.value.code, caught.value.field) == ("loss_not_finite", "inversion.learning_rate")


def test_the_loss_is_equation_18():
    g = torch.Generator().manual_seed(0)
    z, noise, c, t = (
        torch.randn(3, 4, 2, 2, generator=g),
        torch.randn(3, 4, 2, 2, generator=g),
        torch.randn(3, 5, 6, generator=g),
        torch.tensor([0, 4, 9]),
    )
    total = 0.0
    for i in range(3):
        a = float(Scaled.schedule.alphas[t[i]])
        noised = a**0.5 * z[i].numpy() + (1 - a) ** 0.5 * noise[i].numpy()
        total += (
            float(np.mean((noise[i].numpy() - (2 * noised + int(t[i]) / 100 + c[i].numpy().mean())) ** 2)) / 3
        )
    assert loss(Scaled(), z, noise, t, Text(c)).item() == pytest.approx(total, rel=1e-5)


def test_gradient_reaches_the_word_alone(tiny_sd):
    model = load_model(tiny_sd)
    model.learn("<pet>", start_of(model, "dog", 2))
    vectors = model.words["<pet>"].vectors.requires_grad_(True)
    mean, _ = moments(model, pictures(2))
    loss(
        model,
        mean,
        torch.ones_like(mean),
        torch.tensor([10, 500]),
        model.encode_with_graph(["a <pet>", "a dog"]),
    ).backward()
    assert vectors.grad.abs().amax(1).min() > 0
    assert all(
        p.grad is None
        for part in (model.unet, model.pipe.text_encoder, model.pipe.vae)
        for p in part.parameters()
    )


def test_a_prompt_without_the_word_is_encoded_as_before_and_one_with_it_by_its_vectors(tiny_sd):
    model, plain = load_model(tiny_sd), load_model(tiny_sd)
    model.learn("<pet>", start_of(model, "dog", 1))
    assert torch.equal(model.encode(["a cat"]).states, plain.encode(["a cat"]).states)
    dog = model.pipe.tokenizer("dog", add_special_tokens=False).input_ids
    assert len(dog) == 1
    torch.testing.assert_close(model.encode(["a <pet>"]).states, plain.encode(["a dog"]).states)
    ends = eos_states(model, ["<pet>"]), eos_states(plain, ["dog"])
    torch.testing.assert_close(*ends)
    before = model.encode(["a <pet>"]).states
    model.learn("<pet>", torch.zeros(1, before.shape[-1]))
    # What was encoded with the old vectors is forgotten
    assert not torch.equal(model.encode(["a <pet>"]).states, before)


def test_learning_lowers_the_loss_on_what_it_learns(tiny_sd):
    model = load_model(tiny_sd)
    mean, _ = moments(model, pictures(1))
    g = torch.Generator().manual_seed(1)
    z, noise, t = (
        mean.repeat(16, 1, 1, 1),
        torch.randn(16, *model.latent_shape, generator=g),
        torch.arange(0, 960, 60),
    )

    def value() -> float:
        with torch.no_grad():
            return loss(model, z, noise, t, model.encode(["a <pet>"] * 16)).item()

    model.learn("<pet>", start_of(model, "dog", 1))
    before = value()
    invert(
        model,
        "<pet>",
        "dog",
        pictures(1),
        InversionSpec(steps=40, batch_size=8, learning_rate=0.05),
        0,
        lambda _: None,
    )
    assert value() < before


@pytest.mark.parametrize("kill_at", [3, 4])
def test_a_killed_inversion_resumes_to_the_same_vectors(kill_at, tiny_sd, tmp_path):
    kill = killed_when(lambda progress: progress["step"] == kill_at)
    arguments = ("<pet>", "dog", pictures(), SMALL, 5)
    whole = invert(load_model(tiny_sd), *arguments, lambda _: None)
    checkpoints = DirectoryCheckpoints(tmp_path)
    with pytest.raises(Killed):
        invert(load_model(tiny_sd), *arguments, kill, checkpoints)
    seen = []
    resumed = invert(load_model(tiny_sd), *arguments, seen.append, checkpoints)
    assert torch.equal(resumed, whole)
    assert seen[0]["step"] == kill_at // 2 * 2 + 1
    assert not torch.equal(whole, invert(load_model(tiny_sd), *arguments[:-1], 6, lambda _: None))


def test_what_a_mask_keeps_stands_on_white_in_the_smallest_square():
    image, mask = np.full((5, 9, 3), 7, np.uint8), np.zeros((5, 9), np.uint8)
    mask[1:3, 4:8] = 255  # a box of 2 x 4
    mask[1, 4], mask[2, 7] = 127, 128
    w = 255
    assert kept_part(image, mask)[..., 0].tolist() == [[w, w, w, w], [w, 7, 7, 7], [7, 7, 7, 7], [w, w, w, w]]


def test_an_image_is_cut_to_its_middle_square():
    image = np.zeros((40, 100, 3), np.uint8)
    image[:, 30:70] = 200
    assert fitted(image, 64).shape == (64, 64, 3)
    assert (fitted(image, 64) == 200).all()


def test_words_are_made_from_names_and_differ():
    assert word_of("My Dog!", []) == "<my-dog>"
    assert word_of("my dog", ["<my-dog>"]) == "<my-dog-2>"
    a, b = named([Concept(name="my dog", images=IDS[:3], masks=IDS[3:]), Concept(name="cat")])
    assert (a.name, a.target, b.name) == ("<my-dog>", "<my-dog-kept>", "cat")
    assert named([a])[0].name == "<my-dog>"


def test_the_class_shown_needs_a_majority(tiny_judged):
    judges = judges_for(tiny_judged)
    images = pictures(9)
    classes = [judges.concept.classes[int(judges.concept.logits(i[None]).argmax())] for i in images]
    one = next(i for i, c in zip(images, classes, strict=True) if c == classes[0])
    assert shown(judges, [one, one, images[-1]]) == classes[0]
    other = next((i for i, c in zip(images, classes, strict=True) if c != classes[0]), None)
    if other is not None:
        assert shown(judges, [one, other]) is None


def request(**concept: object) -> EraseSpec:
    return EraseSpec.model_validate(
        {
            "concepts": [{"name": "my dog", "images": IDS[:3], **concept}],
            "inversion": {"steps": 4, "batch_size": 2, "checkpoint_every": 2},
            "method": {
                "name": "age",
                "steps": 4,
                "sampling_steps": 4,
                "trajectories": 2,
                "candidates": 3,
                "checkpoint_every": 2,
                "lora": {"rank": 2},
            },
            "evaluation": {
                "erased_images": 4,
                "preserved_count": 4,
                "preserved_images": 1,
                "sampling_steps": 3,
            },
        }
    )


def test_a_visual_edit_delivers_the_word_and_is_judged_by_what_the_images_show(tiny_judged, tmp_path):
    files = uploads(tmp_path)
    run_erase(
        request(target="cat"),
        tmp_path / "out",
        source=str(tiny_judged),
        cache=tmp_path / "cache",
        images=files,
    )
    report = Report.model_validate_json((tmp_path / "out" / "report.json").read_text())
    assert report.erased == ["<my-dog>"]
    name, word = word_embeddings.read(tmp_path / "out" / "embedding-1.safetensors")
    assert name == "<my-dog>"
    assert (report.value("esr1", "<my-dog>") is None) == (word.shows is None)
    assert report.value("edit1", "<my-dog>") is not None
    assert word.shows not in report.preserved
    pipe = StableDiffusionPipeline.from_pretrained(
        tiny_judged, safety_checker=None, requires_safety_checker=False
    )
    pipe.load_textual_inversion(str(tmp_path / "out" / "embedding-1.safetensors"))
    model = load_model(tiny_judged)
    model.learn(name, word.vectors)
    theirs, _ = pipe.encode_prompt("a photo of a <my-dog>", "cpu", 1, False)
    torch.testing.assert_close(model.encode(["a photo of a <my-dog>"]).states, theirs)
    assert "Learned words" in (tmp_path / "out" / "report.html").read_text()
    assert "load_textual_inversion" in (tmp_path / "out" / "README.md").read_text()
    assert (
        json.loads((tmp_path / "out" / "manifest.json").read_text())["spec"]["concepts"][0]["images"]
        == IDS[:3]
    )


@pytest.mark.parametrize("show", [True, False])
def test_the_bundle_holds_the_images_only_where_that_is_wanted(show, tiny_judged, tmp_path):
    spec, files = request().model_copy(update={"method": UceSpec()}), uploads(tmp_path)
    spec.inversion.show_images = show
    run_erase(spec, tmp_path / "out", source=str(tiny_judged), cache=tmp_path / "cache", images=files)
    page = (tmp_path / "out" / "report.html").read_text()
    assert ("an image that &lt;my-dog&gt; was learned from" in page) is show
    assert ("not shown on request" in page) is not show


@pytest.mark.parametrize("name", ["犬" * 200, "../.. or /etc/passwd"])
def test_the_files_of_words_have_names_of_ours_however_long_or_odd_the_concepts_is(
    name, tiny_judged, tmp_path
):
    spec = request(name=name, masks=IDS[3:]).model_copy(
        update={"method": UceSpec(), "evaluation": EvaluationSpec(enabled=False)}
    )
    run_erase(
        spec, tmp_path / "out", source=str(tiny_judged), cache=tmp_path / "cache", images=uploads(tmp_path)
    )
    words = {file.name: word_embeddings.read(file)[0] for file in (tmp_path / "out").glob("embedding-*")}
    assert set(words) == {"embedding-1.safetensors", "embedding-2.safetensors"}
    card = (tmp_path / "out" / "README.md").read_text()
    for file, word in words.items():
        assert f"`{file}` is the word `{word}`" in card


def test_the_deltas_evaluation_with_the_word_repeats_its_jobs_numbers(tiny_judged, tmp_path):
    spec = request(target="cat")
    shared = {"source": str(tiny_judged), "cache": tmp_path / "cache"}
    run_erase(spec, tmp_path / "job", images=uploads(tmp_path), **shared)
    again = EvaluateSpec.model_validate(
        {
            "job_id": IDS[0],
            "concepts": spec.model_dump()["concepts"],
            "evaluation": spec.evaluation.model_dump(),
        }
    )
    delta, word = (
        tmp_path / "job" / "pytorch_lora_weights.safetensors",
        tmp_path / "job" / "embedding-1.safetensors",
    )
    shared |= {"delta": delta, "concepts": again.concepts, "manifest": tmp_path / "job" / "manifest.json"}
    run_evaluate(again, tmp_path / "again", words=[word], **shared)
    run_evaluate(again, tmp_path / "blind", **shared)
    first, second, blind = (
        Report.model_validate_json((tmp_path / f / "report.json").read_text())
        for f in ("job", "again", "blind")
    )
    costs = ("wall", "peak", "storage")
    measured = [m for m in first.metrics if not m.name.startswith(costs)]
    assert [m for m in second.metrics if not m.name.startswith(costs)] == measured
    assert [(m.metric, m.concept) for m in blind.not_available if m.concept] == [("esr1", "<my-dog>")]


@pytest.mark.parametrize("phase", ["learn", "erase"])
def test_a_mask_edit_killed_in_either_stage_ends_in_the_same_bytes(phase, tiny_judged, tmp_path):
    spec, files = request(masks=IDS[3:]), uploads(tmp_path)
    spec = spec.model_copy(update={"evaluation": spec.evaluation.model_copy(update={"enabled": False})})
    kill = killed_when(
        lambda progress: (
            progress["phase"] == phase and progress.get("target") != "<my-dog>" and progress["step"] == 3
        )
    )
    shared = {"source": str(tiny_judged), "cache": tmp_path / "cache", "images": files}
    run_erase(spec, tmp_path / "whole", **shared)
    checkpoints = DirectoryCheckpoints(tmp_path / "checkpoints")
    with pytest.raises(Killed):
        run_erase(spec, tmp_path / "killed", checkpoints=checkpoints, callback=kill, **shared)
    seen = []
    run_erase(spec, tmp_path / "resumed", checkpoints=checkpoints, callback=seen.append, **shared)
    learning = [(p.get("target"), p["step"]) for p in seen if p["phase"] == "learn" and "loss" in p]
    assert learning == ([("<my-dog-kept>", 3), ("<my-dog-kept>", 4)] if phase == "learn" else [])
    for name in ("pytorch_lora_weights.safetensors", "embedding-1.safetensors", "embedding-2.safetensors"):
        assert (tmp_path / "resumed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_an_image_that_is_not_there_is_named(tiny_judged, tmp_path):
    with pytest.raises(CoreError, match=IDS[0]) as caught:
        run_erase(request(target="cat"), tmp_path / "out", source=str(tiny_judged), cache=tmp_path / "cache")
    assert caught.value.code == "input_not_found"


@pytest.mark.parametrize(
    ("concept", "words"),
    [
        ({"images": IDS[:2]}, "images: 2 different images, too few"),
        ({"images": IDS[:3], "masks": IDS[:2]}, "masks: 2 masks for 3 images"),
        (
            {"images": IDS[:3], "masks": IDS[3:], "target": "cat"},
            "the target is learned from what the masks keep",
        ),
        ({"masks": IDS[3:]}, "masks: 3 masks for 0 images"),
        ({"initializer": "dog"}, "initializer: there are no images"),
        ({"images": ["../../etc/passwd"] * 3}, "is not an id"),
    ],
)
def test_a_contradiction_is_named_with_its_remedy(concept, words):
    with pytest.raises(ValidationError, match=words):
        EraseSpec.model_validate({"concepts": [{"name": "my dog", **concept}]})
