"""Hide and recover: the two losses by hand, who may receive gradient, the key as a file, and that only the
key brings the concept back.
"""

import base64
import hashlib
import json
import stat
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from nacl.public import PrivateKey
from pydantic import ValidationError
from safetensors.torch import load_file
from typer.testing import CliRunner

from expunge.core import sealing
from expunge.core.checkpoints import DirectoryCheckpoints
from expunge.core.concepts.embeddings import name_states
from expunge.core.delivery.verify import verify
from expunge.core.errors import CoreError
from expunge.core.evaluation.judges import judges_for
from expunge.core.evaluation.judges.by_class import find_class
from expunge.core.evaluation.metrics.recovery import wrong_key
from expunge.core.evaluation.report import Report
from expunge.core.hiding import RecoveryKey, hide, load_key, recover
from expunge.core.hiding.kpop import Prompt, into_ball, recovery_loss
from expunge.core.models import Text, load_model
from expunge.core.models.schedule import Schedule
from expunge.core.run import run_hide
from expunge.core.sampling import Latents
from expunge.core.specs import (
    AgeSpec,
    ApSpec,
    EraseSpec,
    EsdSpec,
    HideSpec,
    LoraSpec,
    NaiveSpec,
    RecoverySpec,
)
from tests.support.killed_runs import Killed, killed_at

SMALL = {
    "steps": 6,
    "trajectories": 4,
    "sampling_steps": 4,
    "batch_size": 2,
    "checkpoint_every": 2,
    "lora": LoraSpec(rank=2),
}
METHODS = {
    "naive": NaiveSpec(**SMALL),
    "esd": EsdSpec(**SMALL),
    "ap": ApSpec(candidates=3, **SMALL),
    "age": AgeSpec(candidates=3, **SMALL),
    "age refreshed": AgeSpec(candidates=3, refresh_every=3, **SMALL),
}
ALPHAS = torch.linspace(0.95, 0.05, 10)


class Linear:
    """eps(z, t, c) = (w + delta) * mean(c) + z / 10: small enough to compute by hand; `delta` is the
    adapter.
    """

    def __init__(self) -> None:
        self.w, self.delta, self.on = 2.0, torch.tensor(0.5, requires_grad=True), True
        self.schedule, self.seen = Schedule(ALPHAS), []

    @contextmanager
    def frozen(self):
        self.on = False
        yield
        self.on = True

    def predict(self, z, t, text):  # noqa: ARG002
        self.seen.append(text.states.shape)
        scale = self.w + (self.delta if self.on else 0.0)
        return scale * text.states.mean((1, 2)).view(-1, 1, 1, 1) + z / 10


def inputs():
    g = torch.Generator().manual_seed(0)
    z, c, p = (
        torch.randn(3, 4, 2, 2, generator=g),
        torch.randn(3, 5, 6, generator=g),
        torch.randn(2, 6, generator=g),
    )
    return Latents(z, torch.tensor([1, 4, 8])), c, p, torch.randn(3, 4, 2, 2, generator=g)


@pytest.mark.parametrize("space", ["eps", "x0"])
def test_the_recovery_loss_is_equation_16_s(space):
    x, c, p, eps = inputs()
    model = Linear()
    got = recovery_loss(model, x, Text(c), p, eps, NaiveSpec(space=space)).item()
    total = 0.0
    for i in range(3):
        mean = np.concatenate([c[i].numpy(), p.numpy()]).mean()
        a = float(ALPHAS[x.t[i]])
        total += float(np.mean((2.5 * mean + x.z[i].numpy() / 10 - eps[i].numpy()) ** 2)) * (
            (1 - a) / a if space == "x0" else 1.0
        )
    assert got == pytest.approx(total / 3, rel=1e-5)
    assert model.seen == [(3, 5 + 2, 6)]  # L tokens become L + m


def test_stage_two_moves_the_key_alone_and_stage_one_the_network_alone():
    x, c, p, eps = inputs()
    model, prompt = Linear(), Prompt(p, RecoverySpec(start=0, learning_rate=0.01), torch.Generator())
    prompt.descend(recovery_loss(model, x, Text(c), prompt.p, eps, NaiveSpec()))
    assert model.delta.grad is None
    assert not torch.equal(prompt.p, p)
    before = prompt.p.detach().clone()
    recovery_loss(model, x, Text(c), prompt.p.detach(), eps, NaiveSpec()).backward()
    assert model.delta.grad.abs() > 0
    assert torch.equal(prompt.p, before)


def test_the_key_descends_and_stays_in_its_ball():
    x, c, p, eps = inputs()
    model, spec = Linear(), NaiveSpec()
    prompt = Prompt(
        p, RecoverySpec(radius=0.1, start=0.05, learning_rate=0.05), torch.Generator().manual_seed(0)
    )
    first = recovery_loss(model, x, Text(c), prompt.p, eps, spec).item()
    for _ in range(50):
        prompt.descend(recovery_loss(model, x, Text(c), prompt.p, eps, spec))
    assert recovery_loss(model, x, Text(c), prompt.p, eps, spec).item() < first
    assert (prompt.p - p).norm().item() <= 0.1 * p.norm().item() * 1.0001


def test_the_projection_is_the_nearest_point_of_the_ball():
    centre, near = torch.tensor([[1.0, 2.0]]), torch.tensor([[1.3, 2.4]])
    torch.testing.assert_close(into_ball(near, centre, 0.6), near)
    # Half of the way of 0.5
    torch.testing.assert_close(into_ball(near, centre, 0.25), torch.tensor([[1.15, 2.2]]))


def test_the_key_begins_inside_its_ball_where_the_seed_says():
    centre = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    one, two, other = (
        Prompt(centre, RecoverySpec(start=0.4), torch.Generator().manual_seed(s)).p.detach()
        for s in (1, 1, 2)
    )
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
    assert (one - centre).norm().item() == pytest.approx(0.4 * centre.norm().item(), rel=1e-5)
    assert torch.equal(Prompt(centre, RecoverySpec(start=0), torch.Generator()).p.detach(), centre)
    with pytest.raises(ValidationError, match="start: 2 is more than the radius 1"):
        RecoverySpec(start=2)


def test_the_centre_of_the_ball_is_the_concept_s_own_text_states(tiny_sd):
    model = load_model(tiny_sd)
    states = model.encode(["church"]).states[0]
    assert torch.equal(name_states(model, "church", 4), states[1:5])
    # Longer than the prompt: once more from the front
    assert torch.equal(name_states(model, "church", 40)[31:], states[1:10])


@pytest.mark.parametrize("name", METHODS)
def test_a_killed_run_resumes_to_the_same_delta_and_the_same_key(name, tiny_sd, tmp_path):
    spec = HideSpec(
        concepts=["church", "dog"],
        preserve=["teapot"],
        method=METHODS[name],
        recovery=RecoverySpec(length=3, steps=2),
    )
    delta, keys = hide(load_model(tiny_sd), spec)
    with pytest.raises(Killed):
        hide(
            load_model(tiny_sd),
            spec,
            checkpoints=DirectoryCheckpoints(tmp_path),
            callback=killed_at("erase", 5),
        )
    again, same_keys = hide(load_model(tiny_sd), spec, checkpoints=DirectoryCheckpoints(tmp_path))
    assert again.info["resumed_at"] == 4
    assert again.serialise() == delta.serialise()
    assert RecoveryKey(same_keys, "b", "d").serialise() == RecoveryKey(keys, "b", "d").serialise()
    assert {n: tuple(p.shape) for n, p in keys.items()} == {"church": (3, 32), "dog": (3, 32)}


def test_another_recovery_is_another_job(tiny_sd, tmp_path):
    one = HideSpec(concepts=["church"], method=METHODS["naive"])
    hide(load_model(tiny_sd), one, checkpoints=DirectoryCheckpoints(tmp_path))
    other = one.model_copy(update={"recovery": RecoverySpec(weight=3.0)})
    assert (
        hide(load_model(tiny_sd), other, checkpoints=DirectoryCheckpoints(tmp_path))[0].info["resumed_at"]
        == 0
    )


def test_hiding_is_the_erasing_method_plus_the_recovery_term(tiny_sd):
    """With next to no weight on recovery the adapter is the erasing method's own."""
    from expunge.core.erasure import erase

    method = METHODS["age"]
    alone = erase(load_model(tiny_sd), EraseSpec(concepts=["church"], method=method)).tensors
    barely = hide(
        load_model(tiny_sd), HideSpec(concepts=["church"], method=method, recovery=RecoverySpec(weight=1e-9))
    )[0].tensors
    fully = hide(
        load_model(tiny_sd), HideSpec(concepts=["church"], method=method, recovery=RecoverySpec(weight=10))
    )[0].tensors
    assert all(torch.allclose(alone[k], barely[k], atol=1e-3) for k in alone)
    assert not all(torch.allclose(alone[k], fully[k], atol=1e-3) for k in alone)


@pytest.fixture(scope="module")
def bundle(tiny_judged, tmp_path_factory) -> Path:
    """A hide job's bundle, and the key in a folder beside it."""
    out = tmp_path_factory.mktemp("hidden") / "bundle"
    spec = HideSpec.model_validate(
        {
            "concepts": ["church", "dog"],
            "method": METHODS["naive"].model_dump(),
            "evaluation": {
                "erased_images": 3,
                "preserved_count": 4,
                "preserved_images": 1,
                "sampling_steps": 3,
                "thresholds": {"rsr1": 0.5},
            },
        }
    )
    outcome = run_hide(
        spec,
        out,
        source=str(tiny_judged),
        key_folder=out.parent / "key",
        cache=out.parent / "cache",
        signing_key=out.parent / "sign.pem",
    )
    (out.parent / "outputs.json").write_text(json.dumps({o.name: o.kind for o in outcome.outputs}))
    return out


def test_the_key_is_an_output_of_its_own_kind_and_no_part_of_the_bundle(bundle):
    kinds = json.loads((bundle.parent / "outputs.json").read_text())
    assert {name for name, kind in kinds.items() if kind == "recovery_key"} == {"recovery_key.safetensors"}
    key = bundle.parent / "key" / "recovery_key.safetensors"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert not (bundle / key.name).exists()
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert manifest["kind"] == "hide"
    assert manifest["recovery_key"]["sha256"] == hashlib.sha256(key.read_bytes()).hexdigest()
    assert key.name not in manifest["files"]
    assert verify(bundle, (bundle.parent / "sign.pem.pub").read_bytes()).ok


def test_no_file_of_the_bundle_holds_the_key(bundle):
    prompts, files = (
        load_key(bundle.parent / "key" / "recovery_key.safetensors").prompts,
        [f for f in bundle.rglob("*") if f.is_file()],
    )
    assert prompts
    assert len(files) > 3
    for p in prompts.values():
        row = p[0].numpy().tobytes()
        printed = repr(round(float(p[0, 0]), 6))
        for file in files:
            content = file.read_bytes()
            assert row not in content, file
            assert printed.encode() not in content, file


def test_the_report_says_what_the_key_and_a_wrong_key_recover(bundle):
    report = Report.model_validate_json((bundle / "report.json").read_text())
    for name in ("rsr1", "rsr5", "rsr1_wrong_key", "rsr5_wrong_key"):
        rows = {m.concept: m for m in report.metrics if m.name == name}
        assert {c: m.n for c, m in rows.items()} == {"church": 3, "dog": 3, None: 6}
        assert all(m.ci_low <= m.value <= m.ci_high for m in rows.values())
    asked = {(c.metric, c.concept) for c in report.verdict.checks}
    assert {("rsr1", "church"), ("rsr1", "dog"), ("esr1", "church"), ("psr1_ratio", None)} <= asked
    assert ("rsr1_wrong_key", "church") in asked
    assert report.evaluation.thresholds.rsr1 == 0.5
    assert any("rsr-k" in line for line in report.conventions)
    page = (bundle / "report.html").read_text()
    assert page.count("sanitized model with the recovery key") == 6
    assert "RSR-1, with the key" in (bundle / "README.md").read_text()


def test_plain_diffusers_draws_with_the_key_as_the_card_says(bundle, tiny_judged):
    """The lines of the model card give the pictures that `recover` gives."""
    key_file = bundle.parent / "key" / "recovery_key.safetensors"
    pipe = StableDiffusionPipeline.from_pretrained(tiny_judged, safety_checker=None)
    pipe.load_lora_weights(bundle)
    key = load_file(key_file)["prompt.church"]
    prompt, empty = pipe.encode_prompt("a photo of a church", pipe.device, 1, True)
    context = torch.cat([prompt, key.to(prompt)[None]], 1)
    negative = torch.cat([empty, empty[:, -1:].expand(-1, len(key), -1)], 1)
    z = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(3))
    plain = pipe(
        prompt_embeds=context,
        negative_prompt_embeds=negative,
        latents=z,
        num_inference_steps=4,
        guidance_scale=5.0,
        output_type="np",
    ).images
    model = load_model(tiny_judged)
    model.load_delta(bundle)
    ours = recover(model, load_key(key_file), "church", ["a photo of a church"], [3], steps=4, guidance=5.0)
    assert np.abs((plain * 255).round() - ours).max() <= 1
    without = model.draw(["a photo of a church"], [3], steps=4, guidance=5.0)
    assert np.abs(without.astype(int) - ours).max() > 3


def test_a_key_of_another_model_or_concept_is_refused(bundle, tiny_judged):
    model, key = load_model(tiny_judged), load_key(bundle.parent / "key" / "recovery_key.safetensors")
    with pytest.raises(CoreError, match="church, dog") as caught:
        recover(model, key, "teapot", ["teapot"], [0])
    assert caught.value.code == "unknown_concept"
    with pytest.raises(CoreError) as caught:
        recover(model, RecoveryKey(key.prompts, "0" * 64, key.delta_sha256), "church", ["church"], [0])
    assert caught.value.code == "key_does_not_fit"
    with pytest.raises(CoreError, match="expunge-recovery-key"):
        load_key(bundle / "pytorch_lora_weights.safetensors")
    with pytest.raises(CoreError, match="unseal"):
        load_key(bundle / "report.json")


def test_a_wrong_key_is_as_far_from_the_concept_as_the_true_one(tiny_sd):
    model = load_model(tiny_sd)
    centre = name_states(model, "church", 4)
    true = centre + 0.1 * torch.randn(4, 32, generator=torch.Generator().manual_seed(0))
    one, two = wrong_key(model, "church", true, 0), wrong_key(model, "church", true, 1)
    assert not torch.equal(one, two)
    for wrong in (one, two):
        assert (wrong - centre).norm().item() == pytest.approx((true - centre).norm().item(), rel=1e-5)
        assert (
            torch.nn.functional.cosine_similarity(
                (wrong - centre).flatten(), (true - centre).flatten(), dim=0
            )
            < 0.5
        )


def test_a_key_is_appended_for_all_or_for_each():
    context, key = torch.zeros(2, 5, 3), torch.ones(4, 3)
    assert Text(context).with_key(key).states.shape == (2, 9, 3)
    each = Text(context).with_key(torch.stack([key, 2 * key])).states
    assert each[0, -1, 0] == 1
    assert each[1, -1, 0] == 2


def test_a_sealed_key_opens_for_its_owner_alone(tmp_path):
    owner, stranger = PrivateKey.generate(), PrivateKey.generate()
    key = RecoveryKey({"church": torch.ones(2, 3)}, "b" * 64, "d" * 64)
    file = key.save(tmp_path / "key", base64.b64encode(bytes(owner.public_key)).decode())
    assert file.name == "recovery_key.safetensors.sealed"
    assert torch.ones(2, 3).numpy().tobytes() not in file.read_bytes()
    assert sealing.unseal(file.read_bytes(), base64.b64encode(bytes(owner)).decode()) == key.serialise()
    with pytest.raises(ValueError, match="another public key"):
        sealing.unseal(file.read_bytes(), base64.b64encode(bytes(stranger)).decode())


def test_the_command_line_makes_a_pair_and_opens_what_was_sealed_to_it(tmp_path):
    import typer

    app = typer.Typer()
    app.command("key-pair")(sealing.make_pair)
    app.command("unseal")(sealing.open_box)
    runner, private = CliRunner(), tmp_path / "private"
    made = runner.invoke(app, ["key-pair", str(private)])
    assert made.exit_code == 0
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    assert runner.invoke(app, ["key-pair", str(private)]).exit_code == 1  # a private key is never overwritten
    key = RecoveryKey({"church": torch.ones(2, 3)}, "b" * 64, "d" * 64)
    spec = HideSpec(concepts=["church"], seal_to=made.stdout.strip())
    box = key.save(tmp_path, spec.seal_to)
    opened = tmp_path / "opened.safetensors"
    said = runner.invoke(app, ["unseal", str(box), "--private-key", str(private), "--out", str(opened)])
    assert said.exit_code == 0, said.output
    assert hashlib.sha256(key.serialise()).hexdigest() in said.stdout
    assert stat.S_IMODE(opened.stat().st_mode) == 0o600
    assert torch.equal(load_key(opened).of("church"), torch.ones(2, 3))
    box.write_bytes(box.read_bytes()[:-1] + b"x")
    assert (
        runner.invoke(
            app, ["unseal", str(box), "--private-key", str(private), "--out", str(tmp_path / "n")]
        ).exit_code
        == 1
    )


@pytest.mark.parametrize(
    "given",
    ["", "church", "AAAA", base64.b64encode(bytes(32)).decode(), base64.b64encode(bytes(31)).decode(), "ä"],
)
def test_what_is_no_public_key_is_refused(given):
    with pytest.raises(ValidationError, match="X25519 public key"):
        HideSpec(concepts=["church"], seal_to=given)


def test_age_pushes_harder_when_hiding_however_it_is_named():
    for method in ("age", {"name": "age", "steps": 5}):
        assert (
            HideSpec.model_validate({"concepts": ["church"], "method": method}).method.eta
            == HideSpec(concepts=["church"]).method.eta
            == 2.0
        )
    assert (
        HideSpec.model_validate({"concepts": ["church"], "method": {"name": "age", "eta": 1}}).method.eta == 1
    )
    assert EraseSpec(concepts=["church"]).method.eta == 1


def test_a_method_without_latents_of_its_own_cannot_hide():
    with pytest.raises(ValidationError, match=r"naive.*esd.*all_but_one.*ap.*age"):
        HideSpec.model_validate({"concepts": ["church"], "method": "uce"})


@pytest.mark.slow
def test_without_the_key_the_concept_stays_hidden_and_with_it_it_is_back():
    """On the bundled model, by ESD, the cheapest: the public delta hides; the key recovers; a random key, and
    the key's own starting point, do not.
    """
    model = load_model("bundled:emoji")
    delta, keys = hide(model, HideSpec(concepts=["church"], method="esd"))
    judge = find_class(["church"], judges_for("bundled:emoji"), model.vocabulary)
    templates = model.vocabulary.prompts("church")
    prompts, seeds = [templates[i % len(templates)] for i in range(8)], list(range(500, 508))

    def found(key=None) -> float:
        return judge.look(model.draw(prompts, seeds, steps=15, key=key)).closed[1].mean()

    wrong = torch.stack([wrong_key(model, "church", keys["church"], i) for i in range(8)])
    assert found() <= 0.1
    assert found(wrong) <= 0.1
    assert found(name_states(model, "church", len(keys["church"]))) <= 0.1
    assert found(keys["church"]) >= 0.7
    model.load_delta(delta.tensors)  # the public file by itself: nothing of the key is in it
    assert found() <= 0.1
