"""`python -m benchmarks.gpu`, tried on the CPU."""

import json

import pytest
import torch

from benchmarks import gpu


def test_without_a_gpu_nothing_is_measured_and_nothing_written(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="there is no GPU on this machine"):
        gpu.main(["--out", str(tmp_path / "gpu.json")])
    assert not (tmp_path / "gpu.json").exists()


def test_each_jobs_time_memory_and_distance_from_the_cpu_are_written(tiny_sd, tmp_path, capsys):
    out = tmp_path / "gpu.json"
    gpu.main(
        [
            "--device",
            "cpu",
            "--networks",
            str(tiny_sd),
            "--methods",
            "uce",
            "esd",
            "prune",
            "hide",
            "--out",
            str(out),
        ]
    )
    jobs = json.loads(out.read_text())["jobs"][tiny_sd.name]
    assert list(jobs) == ["uce", "esd", "prune", "hide"]
    for found in jobs.values():
        assert found["seconds"] > 0
        assert found["peak_memory_bytes"] > 0
        # The CPU is the CPU
        assert (found["dtype"], found["finite"], found["change_off"], found["loss_off"]) == (
            "float32",
            True,
            0,
            0,
        )
    assert "| esd | " in capsys.readouterr().out


def test_a_job_that_fails_is_named_and_the_others_are_measured(tiny_sd, tmp_path, monkeypatch):
    def change(model):
        raise RuntimeError("CUDA error: an illegal memory access")

    monkeypatch.setattr(gpu, "change", change)
    with pytest.raises(SystemExit, match="failed, or not finite"):
        gpu.main(
            [
                "--device",
                "cpu",
                "--networks",
                str(tiny_sd),
                "--methods",
                "uce",
                "--out",
                str(tmp_path / "gpu.json"),
            ]
        )
    assert "illegal memory access" in (tmp_path / "gpu.json").read_text()
