"""Faults of the science itself, with real workers on core and the bundled model: a loss that is no number,
memory that does not suffice.
"""

import shutil

import torch
from safetensors.torch import load_file, save_file

from expunge.core.models.folders import BUNDLED
from expunge.core.specs import EraseSpec
from expunge.store import db, jobs
from expunge.store.statuses import JobStatus
from tests.support.cluster import until

ESD = {
    "name": "esd",
    "steps": 3,
    "trajectories": 1,
    "sampling_steps": 2,
    "lora": {"rank": 2},
    "checkpoint_every": 1,
}


def post(fleet, *, max_attempts: int = 3, **method):
    """An erase job as the API would store it."""
    spec = EraseSpec.model_validate(
        {"concepts": ["church"], "method": {**ESD, **method}, "evaluation": {"enabled": False}}
    )
    with db.transaction(fleet.url) as session:
        job = jobs.create_job(
            session, fleet.tenant_id, "erase", spec.model_dump(mode="json"), max_attempts=max_attempts
        )
    fleet.accepted.append(job.id)
    return job.id


def ended(fleet, job_id):
    """The job at its end; torch is loaded twice before its first step, which on a busy machine takes
    minutes.
    """
    until(lambda: fleet.job(job_id).status in JobStatus.terminal(), 300)
    return fleet.job(job_id)


def test_f23_a_model_whose_weights_hold_no_number_fails_its_job_with_the_step(fleet, tmp_path):
    """F23: a NaN in a weight of the U-Net, so that core's loss is none."""
    model = tmp_path / "model"
    shutil.copytree(BUNDLED / "emoji", model)
    file = model / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    weights["conv_out.bias"][0] = torch.nan
    save_file(weights, file)
    fleet.loops()
    fleet.worker(
        EXPUNGE_RUNNER="",
        EXPUNGE_MODELS=f'{{"emoji": "{model}"}}',
        EXPUNGE_LEASE_SECONDS="30",
        OMP_NUM_THREADS="1",
    )
    job_id = post(fleet, batch_size=1)
    fleet.fault("weights that hold a NaN")
    error = ended(fleet, job_id).error
    assert (error["code"], error["retryable"], error["attempt"]) == ("loss_not_finite", False, 1)
    assert "step 1 of 3" in error["message"]


def test_f23_a_host_without_memory_for_the_run_says_so_and_the_worker_goes_on(fleet):
    """F23: the kernel gives the process no more memory, so that torch's own allocation fails: the run is
    begun once more with half the batch, which fits.
    """
    fleet.loops()
    fleet.worker(
        EXPUNGE_RUNNER="tests.support.runners.starved:run",
        STARVED_MIB="240",
        EXPUNGE_LEASE_SECONDS="30",
        OMP_NUM_THREADS="1",
        MALLOC_ARENA_MAX="1",
    )
    large = post(fleet, batch_size=64, max_attempts=1)
    fleet.fault("no memory")
    done = ended(fleet, large)
    assert (done.status, done.attempt) == ("succeeded", 1), done.error
    (told,) = [
        event.data["message"] for event in fleet.events(large) if event.data.get("code") == "out_of_memory"
    ]
    assert "method.batch_size 32" in told
    small = post(fleet, batch_size=1)
    assert ended(fleet, small).status == "succeeded", fleet.job(small).error
