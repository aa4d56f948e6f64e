"""What the bundle holds, and that it does outside what it did inside."""

import hashlib
import itertools
import json
import os
import re
import zipfile
from html import unescape
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from diffusers import StableDiffusionPipeline
from PIL import Image
from safetensors import safe_open

from expunge.core.delivery import card, page, plots
from expunge.core.delivery.fused import pack
from expunge.core.evaluation.checks import Check, Verdict
from expunge.core.evaluation.pictures import Picture
from expunge.core.evaluation.report import Evaluation, Report
from expunge.core.evaluation.sheet import Metric
from expunge.core.evaluation.verdict import judge
from expunge.core.models import Denoiser, load_model
from expunge.core.run import Outcome, run_erase
from expunge.core.specs import Concept, EraseSpec, EvaluationSpec, Thresholds

PROMPTS = ["church", "a photo of a dog in noto style", "a teapot"]
FP16 = 2**-10  # one unit in the last place at 1.0
HOSTILE = "<script>alert(1)</script> | **x**"


def draw_with_plain_diffusers(pipe: StableDiffusionPipeline) -> np.ndarray:
    pipe.set_progress_bar_config(disable=True)
    latents = torch.stack(
        [torch.randn((4, 16, 16), generator=torch.Generator().manual_seed(s)) for s in range(3)]
    )
    return pipe(PROMPTS, latents=latents, num_inference_steps=4, guidance_scale=7.5, output_type="np").images


@pytest.fixture(scope="module")
def sanitized(erase_spec: EraseSpec, bundle: Path, tiny_judged: Path) -> Denoiser:
    """The model as it was inside the job: base and adapter with the bundle's own tensors."""
    from expunge.core.erasure import erase

    model = load_model(tiny_judged)
    delta = erase(model, erase_spec)
    with safe_open(bundle / "pytorch_lora_weights.safetensors", "pt") as f:
        assert all(torch.equal(f.get_tensor(k), v) for k, v in delta.tensors.items())
    return model


def test_the_delta_reproduces_the_in_process_pictures_in_plain_diffusers(
    bundle: Path, tiny_judged: Path, sanitized: Denoiser
):
    pipe = StableDiffusionPipeline.from_pretrained(tiny_judged, safety_checker=None)
    base = draw_with_plain_diffusers(pipe)
    pipe.load_lora_weights(bundle)
    inside, outside = draw_with_plain_diffusers(sanitized.pipe), draw_with_plain_diffusers(pipe)
    assert np.abs(outside - inside).max() < FP16
    assert np.abs(inside[0] - base[0]).max() > 20 * FP16  # the delta does something


def test_the_fused_checkpoint_draws_the_same_without_a_lora(
    bundle: Path, tmp_path: Path, sanitized: Denoiser
):
    with zipfile.ZipFile(bundle / "fused.zip") as archive:
        archive.extractall(tmp_path)
    pipe = StableDiffusionPipeline.from_pretrained(tmp_path / "fused", safety_checker=None)
    assert not any("lora" in name for name, _ in pipe.unet.named_modules())
    assert (
        np.abs(draw_with_plain_diffusers(pipe) - draw_with_plain_diffusers(sanitized.pipe)).max() < 4 * FP16
    )
    assert load_model(tmp_path / "fused").vocabulary.styles == ["noto", "twemoji"]
    assert not any(b"_name_or_path" in f.read_bytes() for f in (tmp_path / "fused").rglob("*.json"))


def test_the_same_spec_and_seed_give_the_same_bytes(
    erase_spec: EraseSpec, bundle: Path, tiny_judged: Path, tmp_path: Path, workplace: Path
):
    again = run_erase(
        erase_spec,
        tmp_path / "again",
        source=str(tiny_judged),
        cache=workplace / "cache",
        context={"job_id": "2"},
    )
    for name in ("pytorch_lora_weights.safetensors", "fused.zip"):
        assert (
            hashlib.sha256((tmp_path / "again" / name).read_bytes()).digest()
            == hashlib.sha256((bundle / name).read_bytes()).digest()
        )
    assert "manifest.sig" not in [o.name for o in again.outputs]  # no key was given


def test_the_delta_says_what_it_is(bundle: Path, tiny_judged: Path):
    with safe_open(bundle / "pytorch_lora_weights.safetensors", "pt") as f:
        metadata = f.metadata()
    assert metadata["format"] == "pt"
    settings = json.loads(metadata["lora_adapter_metadata"])
    # Asked for with alpha 8, which is in the tensors
    assert (settings["unet.r"], settings["unet.lora_alpha"]) == (4, 4)
    # Of no published Stable Diffusion's sizes
    assert metadata["modelspec.architecture"] == "stable-diffusion-custom/lora"
    assert json.loads(metadata["concept_erasure.concepts"])[0]["name"] == "church"
    assert json.loads(metadata["concept_erasure.method"])["eta"] == 1.0
    assert metadata["concept_erasure.base_sha256"] == load_model(tiny_judged).digest


def test_the_outcome_lists_every_file_with_its_media_type(outcome: Outcome, bundle: Path):
    assert {o.name for o in outcome.outputs} == {f.name for f in bundle.iterdir()}
    types = {o.name: o.media_type for o in outcome.outputs}
    assert types["pytorch_lora_weights.safetensors"] == "application/vnd.safetensors"
    assert types["report.html"].startswith("text/html")
    assert outcome.verdict == json.loads((bundle / "report.json").read_text())["verdict"]


def test_a_failed_verdicts_advice_is_wherever_the_verdict_is(outcome: Outcome, bundle: Path):
    assert outcome.verdict["passed"] is not True
    assert outcome.verdict["advice"]
    html, model_card = unescape((bundle / "report.html").read_text()), (bundle / "README.md").read_text()
    for line in outcome.verdict["advice"]:
        assert line in html
        assert card.escape_markdown(line) in model_card


def test_the_manifest_holds_the_resolved_spec_and_every_digest(bundle: Path, tiny_judged: Path):
    manifest = json.loads((bundle / "manifest.json").read_text())
    # And no path of this machine
    assert manifest["base_model"] == {"id": "emoji", "sha256": load_model(tiny_judged).digest}
    assert manifest["spec"]["method"]["guidance_scale"] == 3.0
    assert manifest["delta"]["residual"] == 0.0
    assert manifest["seeds"] == {"training": 0, "pictures": [0, 5]}
    assert manifest["context"] == {"job_id": "1", "attempt": 1}
    assert {"base model", "delta", "nudenet", "concept (concept)"} <= set(manifest["judges"])
    assert manifest["libraries"]["torch"] == torch.__version__.split("+")[0]
    for name, entry in manifest["files"].items():
        content = (bundle / name).read_bytes()
        assert (hashlib.sha256(content).hexdigest(), len(content)) == (entry["sha256"], entry["size"])


def test_the_report_counts_what_was_drawn(bundle: Path):
    report = Report.model_validate_json((bundle / "report.json").read_text())
    names = {m.name for m in report.metrics}
    assert {
        "esr1",
        "esr5",
        "psr1",
        "psr5",
        "esr1_base",
        "esr5_base",
        "psr1_base",
        "psr5_base",
        "clip_score",
        "clip_delta",
        "ner_0.3",
    } <= names
    assert {"wall_seconds", "wall_seconds_erase", "peak_memory_bytes", "storage_bytes"} <= names
    by_name = {(m.name, m.concept): m for m in report.metrics}
    assert by_name["esr1", "church"].n == 4
    assert by_name["psr1", None].n == len(report.preserved) * 2
    assert by_name["ner_0.3", None].n == 4 + 2 + 8 + 1
    assert all(m.ci_low <= m.value <= m.ci_high for m in report.metrics if m.ci_low is not None)
    assert [m.metric for m in report.not_available if m.metric == "lpips"] == ["lpips"]
    detections = json.loads((bundle / "detections.json").read_text())
    assert len(detections) == 2 * 15
    assert {"model", "concept", "role", "kind", "prompt", "seed", "detections"} == set(detections[0])


def test_the_page_fetches_nothing(bundle: Path):
    html = (bundle / "report.html").read_text()
    assert not re.findall(r"""(?:src|href)=["'](?!data:)""", html)
    assert "@import" not in html
    assert "<script" not in html
    # Four erased pairs, two in words that no method trains on, and one for each preserved concept
    shown, worst, _ = re.split("<h2>(?:The (?:ten )?worst|Preserved)", html, maxsplit=2)
    assert shown.count("data:image/png;base64,") == 2 * 6
    assert 2 * 6 <= worst.count("data:image/png;base64,") <= 2 * 10
    assert html.count("data:image/png;base64,") - worst.count("data:image/png;base64,") == 2 * (6 + 4)
    for line in json.loads((bundle / "report.json").read_text())["not_tested"]:
        assert line in unescape(html)
    assert "prefers-color-scheme: dark" in html


def test_a_hostile_concept_name_stays_text(erase_spec: EraseSpec, tiny_judged: Path):
    report = Report(
        erased=[HOSTILE],
        preserved=[],
        metrics=[
            Metric(name=n, concept=HOSTILE, value=1, n=1, ci_low=0, ci_high=1) for n in ("esr1", "esr1_base")
        ]
        + [Metric(name=n, value=1, n=1, ci_low=0, ci_high=1) for n in ("esr1", "esr1_base")],
        verdict=Verdict(
            passed=True, checks=[Check(metric="esr1", concept=HOSTILE, value=1, threshold=1, passed=True)]
        ),
        evaluation=EvaluationSpec(),
    )
    images = np.zeros((1, 8, 8, 3), np.uint8)
    evaluation = Evaluation(report, [Picture(HOSTILE, "erased", f"a {HOSTILE}", 0)], images, images)
    html = page.render_report(
        evaluation,
        [{"step": 1, "loss": 1.0, "target": HOSTILE}] * 3,
        {"title": "x", "summary": HOSTILE, "limits": [], "details": {}},
    )
    assert "<script" not in html
    assert "&lt;script&gt;" in html
    spec = erase_spec.model_copy(
        update={"concepts": [erase_spec.concepts[0].model_copy(update={"name": HOSTILE})]}
    )
    layers = [(spec.method.name, spec.concepts)]
    text = card.render_card(load_model(tiny_judged), "bundled:emoji", spec.model, layers, report, fused=False)
    assert "<script" not in text
    assert "alert\\(1\\)" in text


def test_a_check_over_several_concepts_says_which_and_a_cost_rests_on_no_pictures(
    erase_spec: EraseSpec, tiny_judged: Path
):
    together = Check(metric="esr1", value=1, threshold=0.9, passed=True)
    kept = Check(metric="psr1_ratio", value=1, threshold=0.9, passed=True)
    report = Report(
        erased=["church"],
        preserved=["dog"],
        metrics=[Metric(name="esr1", value=1, n=7), Metric(name="wall_seconds", value=2, n=1)],
        verdict=Verdict(passed=True, checks=[together, kept]),
        evaluation=EvaluationSpec(),
    )
    layers = [("esd", erase_spec.concepts)]
    text = card.render_card(load_model(tiny_judged), "bundled:emoji", "emoji", layers, report, fused=False)
    assert "| ESR-1 | all erased concepts together |" in text
    assert "| PSR-1, ratio to base | all preserved concepts |" in text
    assert "| ESR-1 | 100.0 % |  |  | 7 |" in text
    assert "| Wall time | 2.0 s |  |  |  |" in text


def test_the_cards_front_matter_is_what_the_hub_reads(bundle: Path):
    _, front, body = (bundle / "README.md").read_text().split("---\n", 2)
    data = yaml.safe_load(front)
    assert data["base_model"] == "emoji"
    assert data["base_model_relation"] == "adapter"
    assert data["library_name"] == "diffusers"
    assert "concept-erasure" in data["tags"]
    assert "load_lora_weights" in body
    assert "can be unloaded" in body
    assert "expunge verify" in body


def test_a_hub_model_is_named_by_its_id(erase_spec: EraseSpec, tiny_judged: Path):
    text = card.render_card(
        load_model(tiny_judged),
        "someone/some-model",
        erase_spec.model,
        [("esd", erase_spec.concepts)],
        None,
        fused=False,
    )
    assert yaml.safe_load(text.split("---\n")[1])["base_model"] == "someone/some-model"
    assert 'from_pretrained("someone/some-model")' in text
    assert "without evaluation" in text


def test_the_grid_shows_both_rows(bundle: Path):
    image = Image.open(bundle / "grid.png")
    assert image.width > 4 * 112
    assert image.height > 4 * 112


def test_a_zip_repeats_whatever_the_files_dates(tmp_path: Path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").write_bytes(b"1" * 1000)
    first = pack(tmp_path / "a", tmp_path / "1.zip").read_bytes()
    assert not (tmp_path / "a" / "x").exists()  # moved, so that the disk holds it once
    (tmp_path / "a" / "x").write_bytes(b"1" * 1000)
    os.utime(tmp_path / "a" / "x", (1e9, 1e9))
    assert pack(tmp_path / "a", tmp_path / "2.zip").read_bytes() == first
    assert len(first) > 1000  # stored, not compressed


def as_metric(name: str, value: float | None) -> Metric | None:
    return None if value is None else Metric(name=name, value=value, n=24, ci_low=value, ci_high=value)


@pytest.mark.parametrize(
    ("values", "passed"),
    [
        ({("esr1", "a"): 0.99, ("esr1", "b"): 0.96, ("psr1_ratio", None): 0.95}, True),
        (
            {("esr1", "a"): 1.0, ("esr1", "b"): 0.5, ("psr1_ratio", None): 0.95},
            False,
        ),  # one concept cannot hide behind another
        ({("esr1", "a"): 1.0, ("psr1_ratio", None): 0.95}, None),  # b could not be judged
        ({("esr1", "a"): 0.5, ("psr1_ratio", None): 0.95}, False),
        ({("esr1", "a"): 1.0, ("esr1", "b"): 1.0, ("psr1_ratio", None): 0.89}, False),
    ],
)
def test_the_verdict_asks_every_concept(values: dict[tuple[str, str | None], float], passed: bool | None):
    assert (
        judge(
            lambda m, c: as_metric(m, values.get((m, c))),
            [Concept(name="a"), Concept(name="b")],
            Thresholds(),
        ).passed
        is passed
    )


def test_no_threshold_is_no_pass():
    none = Thresholds(esr1=None, psr1_ratio=None)
    assert judge(lambda m, _: as_metric(m, 1.0), [Concept(name="a")], none) == Verdict(status="not shown")


def test_axis_ticks_are_round():
    assert plots.round_ticks(0.013) == pytest.approx([0, 0.005, 0.01])
    assert plots.round_ticks(120) == [0, 50, 100]
    assert plots.round_ticks(0) == [0]


def test_the_card_says_that_a_fused_checkpoint_screens_nothing(tiny_judged: Path, erase_spec):
    for fused in (True, False):
        text = card.render_card(
            load_model(tiny_judged),
            "x/y",
            erase_spec.model,
            [("esd", erase_spec.concepts)],
            None,
            fused=fused,
        )
        assert ("holds no safety checker" in text) == fused


@pytest.mark.parametrize(
    ("low", "high"), [(-7.0, 10.8), (-6.2, 21.0), (0.0, 10.0), (-0.1, 10.0), (-100.0, 10.0)]
)
def test_an_axis_over_both_signs_has_marks_at_one_distance_that_hold_every_value(low: float, high: float):
    marks = plots.round_ticks_between(low, high)
    assert marks[0] <= low < high <= marks[-1]
    assert 0 in marks
    assert 3 <= len(marks) <= 7
    assert {b - a for a, b in itertools.pairwise(marks)} == {marks[1] - marks[0]}
