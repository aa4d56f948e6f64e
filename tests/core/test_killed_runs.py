"""A run that was killed and run again ends in the sha256 of an undisturbed one: every method of the registry
and every kind of edit, killed in each phase.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from expunge.core.checkpoints import DirectoryCheckpoints
from expunge.core.progress import Progress
from expunge.core.run import run_erase, run_hide
from expunge.core.specs import SPECS
from tests.support.killed_runs import Killed, killed_at
from tests.support.small_jobs import RUNS, images

__all__ = ["images"]


@pytest.mark.parametrize("name", RUNS)
def test_a_run_killed_in_each_of_its_phases_ends_in_the_undisturbed_sha256(
    name: str, tiny_judged: Path, images: dict[str, Path], tmp_path: Path
):
    kind, asked = RUNS[name]
    spec = SPECS[kind].model_validate({"preserve": ["teapot"], "evaluation": {"enabled": False}, **asked})
    seen: list[Progress] = []

    def run(folder: str, callback: Callable[[Progress], None]) -> dict[str, str]:
        shared: dict[str, Any] = {
            "source": str(tiny_judged),
            "cache": tmp_path / folder / "cache",
            "callback": callback,
        }
        shared["checkpoints"] = DirectoryCheckpoints(tmp_path / folder / "checkpoints")
        out = tmp_path / folder / str(len(list((tmp_path / folder).iterdir())))
        if kind == "hide":
            run_hide(spec, out, key_folder=out / "key", **shared)
        else:
            run_erase(spec, out, images=images, **shared)
        return {
            str(p.relative_to(out)): hashlib.sha256(p.read_bytes()).hexdigest()
            for p in out.rglob("*.safetensors")
        }

    undisturbed = run("whole", seen.append)
    assert undisturbed
    for phase in dict.fromkeys(p["phase"] for p in seen if p["phase"] not in ("load", "deliver")):
        reports = [(p["phase"], p["step"]) for p in seen if p["phase"] == phase]
        with pytest.raises(Killed):
            run("killed", killed_at(*reports[len(reports) // 2]))
    assert run("killed", lambda _: None) == undisturbed
