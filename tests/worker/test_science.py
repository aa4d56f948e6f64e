"""The worker on core itself, with the bundled model."""

import base64
import hashlib
import io
import json
import stat
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from nacl.public import PrivateKey, SealedBox
from PIL import Image
from pydantic import ValidationError
from safetensors.torch import load
from sqlalchemy import text

from expunge.core.evaluation.judges import BUNDLED
from expunge.core.pack_judge import pack
from expunge.core.specs import SPECS
from expunge.store import artifacts, db, jobs
from expunge.store.blobs import Blobs, upload_key
from expunge.store.models import Artifact, Job
from expunge.worker import shutdown
from expunge.worker.task import run_attempt

LORA = "pytorch_lora_weights.safetensors"
ESD = {
    "name": "esd",
    "steps": 4,
    "batch_size": 1,
    "trajectories": 1,
    "sampling_steps": 2,
    "checkpoint_every": 2,
    "lora": {"rank": 2},
}


@pytest.fixture
def post(settings, tenant) -> Callable[..., Job]:
    def made(kind: str, **request: object) -> Job:
        spec = SPECS[kind].model_validate(request)
        with db.transaction(settings.database_url.get_secret_value()) as session:
            return jobs.create_job(session, tenant.id, kind, spec.model_dump(mode="json"))

    return made


@pytest.fixture
def shown(settings) -> Callable[[Job], tuple[Job, dict[str, Artifact]]]:
    def read(job: Job) -> tuple[Job, dict[str, Artifact]]:
        with db.transaction(settings.database_url.get_secret_value()) as session:
            rows = artifacts.list_of_job(session, job.tenant_id, job.id)
            return jobs.get(session, job.tenant_id, job.id), {row.name: row for row in rows}

    return read


def test_an_erase_job_publishes_core_s_bundle(settings, post, shown):
    job = post("erase", concepts=["church"], method="uce", evaluation={"enabled": False})
    run_attempt(settings, job.id)
    done, files = shown(job)
    assert done.status == "succeeded", done.error
    assert {LORA, "manifest.json", "README.md"} <= set(files)
    content = b"".join(Blobs(settings.artifacts_url).read(files[LORA].key))
    assert hashlib.sha256(content).hexdigest() == files[LORA].sha256
    assert done.progress["phase"] == "deliver"


def test_a_prune_job_delivers_a_mask_and_is_judged_by_its_id(settings, post, shown):
    inner = {"name": "esd", "batch_size": 1, "trajectories": 1, "sampling_steps": 2}
    method = {"name": "prune", "steps": 2, "learning_rate": 3, "retain_concepts": 2, "method": inner}
    job = post("erase", concepts=["church"], method=method, evaluation={"enabled": False})
    run_attempt(settings, job.id)
    done, files = shown(job)
    assert done.status == "succeeded", done.error
    assert {"sparse_mask.safetensors", "fused.zip"} <= set(files)
    few = {"erased_images": 1, "preserved_count": 2, "preserved_images": 1, "sampling_steps": 2}
    judging = post("evaluate", job_id=str(job.id), concepts=["church"], evaluation=few)
    run_attempt(settings, judging.id)
    judged, _ = shown(judging)
    assert judged.status == "succeeded", judged.error


def test_an_uploaded_judge_judges_the_classes_that_it_has(settings, post, shown, tenant, tmp_path):
    pack(BUNDLED / "concept", tmp_path / "judge.safetensors")
    key = upload_key(tenant.id)
    size, sha256 = Blobs(settings.artifacts_url).put(key, tmp_path / "judge.safetensors", name="judge")
    facts = {"name": "judge", "media_type": "application/octet-stream", "info": {"judge": "timm"}}
    with db.transaction(settings.database_url.get_secret_value()) as session:
        upload = artifacts.add_upload(session, tenant.id, size=size, sha256=sha256, key=key, **facts)
    few = {"erased_images": 1, "held_out_images": 0, "preserved_count": 2, "preserved_images": 1}
    judging = few | {"pair_images": 0, "sampling_steps": 2, "judge": {"artifact_id": str(upload.id)}}
    job = post("erase", concepts=["church"], method="uce", evaluation=judging)
    run_attempt(settings, job.id)
    done, files = shown(job)
    assert done.status == "succeeded", done.error
    report = json.loads(b"".join(Blobs(settings.artifacts_url).read(files["report.json"].key)))
    assert {judge["judge"] for judge in report["judges"]} == {"uploaded test_resnet"}
    assert "concept (uploaded test_resnet)" in report["digests"]


def test_a_job_that_was_handed_over_ends_in_the_same_bytes(settings, post, shown):
    request = {"concepts": ["church"], "method": ESD, "evaluation": {"enabled": False}, "seed": 3}
    straight, broken = post("erase", **request), post("erase", **request)
    run_attempt(settings, straight.id)
    patient = settings.model_copy(update={"soft_shutdown_seconds": 600})
    stop_after_first_checkpoint(patient, broken)
    resting, _ = shown(broken)
    assert (resting.status, resting.attempt) == ("queued", 0)
    run_attempt(settings, broken.id)
    (one, whole), (two, pieces) = shown(straight), shown(broken)
    assert (one.status, two.status) == ("succeeded", "succeeded"), (one.error, two.error)
    assert whole[LORA].sha256 == pieces[LORA].sha256


def stop_after_first_checkpoint(settings, job: Job) -> None:
    """As SIGTERM does, from the first checkpoint on."""
    from expunge.worker.checkpoints import JobCheckpoints

    save = JobCheckpoints.save_files

    def save_then_stop(self, *arguments: object) -> None:
        shutdown.FLAG[0] = 1
        save(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(JobCheckpoints, "save_files", save_then_stop)
        run_attempt(settings, job.id)
    shutdown.FLAG[0] = 0


def test_a_job_whose_model_this_worker_lacks_goes_elsewhere_and_ends_so_that_a_retry_helps(
    settings, post, shown
):
    job = post("erase", model="flux", concepts=["church"])
    run_attempt(settings, job.id)
    waiting, _ = shown(job)
    assert (waiting.status, waiting.attempt, len(waiting.failed_on)) == ("queued", 1, 1)
    with db.transaction(settings.database_url.get_secret_value()) as session:
        session.execute(text("update jobs set max_attempts = 2, available_at = now()"))
    run_attempt(settings, job.id)
    done, _ = shown(job)
    assert (done.error["code"], done.error["retryable"]) == ("unknown_model", True)
    assert "emoji" in done.error["message"]


def test_a_delta_that_is_not_there_is_named(settings, post, shown):
    job = post("evaluate", job_id="00000000-0000-0000-0000-000000000000")
    run_attempt(settings, job.id)
    done, _ = shown(job)
    assert done.error["code"] == "input_not_found"
    assert "job_id" in done.error["message"]


def test_a_job_starts_from_an_earlier_job_s_model_and_a_combination_takes_one_back_out(settings, post, shown):
    quiet = {"evaluation": {"enabled": False}}
    church = post("erase", concepts=["church"], method="uce", **quiet)
    run_attempt(settings, church.id)
    dog = post("erase", concepts=["dog"], method=ESD, base_job_id=str(church.id), **quiet)
    run_attempt(settings, dog.id)
    done, files = shown(dog)
    assert done.status == "succeeded", done.error
    assert {LORA, "delta_only.safetensors"} <= set(files)
    assert files[LORA].size > files["delta_only.safetensors"].size
    both, alone = (
        post("combine", jobs=[str(j.id) for j in members], **quiet) for members in ([church, dog], [dog])
    )
    for job in (both, alone):
        run_attempt(settings, job.id)
        assert shown(job)[0].status == "succeeded", shown(job)[0].error
    _, whole = shown(both)
    assert whole[LORA].size == pytest.approx(files[LORA].size, rel=0.05)
    assert shown(alone)[1][LORA].size < whole[LORA].size


KEY = "recovery_key.safetensors"


def test_a_hide_job_publishes_its_key_beside_the_bundle_and_nothing_of_it_inside(settings, post, shown):
    job = post("hide", concepts=["church"], method=ESD, recovery={"length": 3}, evaluation={"enabled": False})
    run_attempt(settings, job.id)
    done, files = shown(job)
    assert done.status == "succeeded", done.error
    assert {name for name, row in files.items() if row.kind == "recovery_key"} == {KEY}
    blobs = Blobs(settings.artifacts_url)
    content = {name: b"".join(blobs.read(row.key)) for name, row in files.items()}
    manifest = json.loads(content["manifest.json"])
    assert manifest["kind"] == "hide"
    assert manifest["recovery_key"]["sha256"] == files[KEY].sha256 == hashlib.sha256(content[KEY]).hexdigest()
    assert KEY not in manifest["files"]
    secret = load(content[KEY])["prompt.church"].numpy().tobytes()
    assert len(secret) == 3 * 128 * 4
    assert not [
        name for name, data in content.items() if name != KEY and (secret in data or secret[:64] in data)
    ]
    row = files[KEY]
    assert (
        stat.S_IMODE((Path(settings.artifacts_url.removeprefix("file://")) / row.key).stat().st_mode) == 0o600
    )


def test_a_sealed_key_opens_with_the_client_s_private_key(settings, post, shown):
    owner = PrivateKey.generate()
    public = base64.b64encode(bytes(owner.public_key)).decode()
    job = post("hide", concepts=["church"], method=ESD, seal_to=public, evaluation={"enabled": False})
    run_attempt(settings, job.id)
    done, files = shown(job)
    assert done.status == "succeeded", done.error
    box = b"".join(Blobs(settings.artifacts_url).read(files[f"{KEY}.sealed"].key))
    opened = SealedBox(owner).decrypt(box)
    assert load(opened)["prompt.church"].shape == (10, 128)
    manifest = json.loads(b"".join(Blobs(settings.artifacts_url).read(files["manifest.json"].key)))
    assert manifest["recovery_key"]["plain_sha256"] == hashlib.sha256(opened).hexdigest()
    assert manifest["recovery_key"]["sealed_to"] == public


def test_a_hide_job_that_was_handed_over_ends_in_the_same_delta_and_key(settings, post, shown):
    request = {"concepts": ["church"], "method": ESD, "evaluation": {"enabled": False}, "seed": 3}
    straight, broken = post("hide", **request), post("hide", **request)
    run_attempt(settings, straight.id)
    stop_after_first_checkpoint(settings.model_copy(update={"soft_shutdown_seconds": 600}), broken)
    assert shown(broken)[0].status == "queued"
    run_attempt(settings, broken.id)
    (one, whole), (two, pieces) = shown(straight), shown(broken)
    assert (one.status, two.status) == ("succeeded", "succeeded"), (one.error, two.error)
    assert {name: whole[name].sha256 for name in (LORA, KEY)} == {
        name: pieces[name].sha256 for name in (LORA, KEY)
    }


def test_a_visual_edit_learns_from_uploads_and_its_evaluation_knows_the_word(settings, tenant, post, shown):
    blobs, ids = Blobs(settings.artifacts_url), list[str]()
    for k in range(3):
        stream = io.BytesIO()
        Image.fromarray(np.full((40, 40, 3), 60 * k, np.uint8)).save(stream, "PNG")
        key = upload_key(tenant.id)
        size, sha256 = blobs.put(key, stream.getvalue())
        with db.transaction(settings.database_url.get_secret_value()) as session:
            info = {"width": 40, "height": 40, "light": 0.5}
            row = artifacts.add_upload(
                session,
                tenant.id,
                name="a.png",
                media_type="image/png",
                size=size,
                sha256=sha256,
                key=key,
                info=info,
            )
            ids.append(str(row.id))
    small = {"erased_images": 2, "preserved_count": 2, "preserved_images": 1, "sampling_steps": 2}
    concept, inversion = {"name": "my dog", "images": ids, "target": "cat"}, {"steps": 2, "batch_size": 1}
    job = post("erase", concepts=[concept], method="uce", inversion=inversion, evaluation={"enabled": False})
    run_attempt(settings, job.id)
    done, files = shown(job)
    assert done.status == "succeeded", done.error
    assert {LORA, "embedding-1.safetensors"} <= set(files)
    again = post("evaluate", job_id=str(job.id), concepts=[concept], evaluation=small)
    run_attempt(settings, again.id)
    judged, reports = shown(again)
    assert judged.status == "succeeded", judged.error
    report = json.loads(b"".join(blobs.read(reports["report.json"].key)))
    assert report["erased"] == ["<my-dog>"]
    assert any(m["name"] == "edit1" and m["concept"] == "<my-dog>" for m in report["metrics"])


def test_an_image_that_is_gone_is_named(settings, post, shown):
    unknown = ["00000000-0000-0000-0000-00000000000" + c for c in "123"]
    job = post("erase", concepts=[{"name": "my dog", "images": unknown}], method="uce")
    run_attempt(settings, job.id)
    done, _ = shown(job)
    assert done.error["code"] == "input_not_found"
    assert unknown[0] in done.error["message"]


def test_an_inspect_job_ranks_what_a_finished_job_moved(settings, post, shown):
    erased = post(
        "erase", concepts=["church"], method={"name": "uce", "ridge": 50}, evaluation={"enabled": False}
    )
    run_attempt(settings, erased.id)
    space = ["church", "mosque", "dog", "trumpet"]
    how = {"trajectories": 1, "timesteps": 1, "sampling_steps": 2, "pictures": 0, "concept_space": space}
    job = post("inspect", job_id=str(erased.id), **how)
    run_attempt(settings, job.id)
    done, files = shown(job)
    assert done.status == "succeeded", done.error
    assert done.verdict is None
    report = json.loads(b"".join(Blobs(settings.artifacts_url).read(files["report.json"].key)))
    assert {row["concept"] for row in report["most_moved"]} == set(space)
    assert report["digests"]["theta_prime"] == shown(erased)[1][LORA].sha256

    gone = post(
        "inspect", job_id=str(erased.id), against_artifact_id="00000000-0000-0000-0000-000000000000", **how
    )
    run_attempt(settings, gone.id)
    assert "against_artifact_id" in shown(gone)[0].error["message"]


def test_a_job_that_a_release_before_accepted_runs_though_this_one_would_refuse_it(settings, post, shown):
    refused = {"concepts": ["church", "Churches"], "preserve": ["the church"], "inversion": {"steps": 7}}
    job = post("erase", concepts=["church"], method="uce", evaluation={"enabled": False})
    with pytest.raises(ValidationError):
        SPECS["erase"].model_validate({**job.spec, **refused})
    with db.transaction(settings.database_url.get_secret_value()) as session:
        session.execute(
            text("update jobs set spec = spec || cast(:more as jsonb)"), {"more": json.dumps(refused)}
        )
    run_attempt(settings, job.id)
    done, _ = shown(job)
    assert done.status == "succeeded", done.error
