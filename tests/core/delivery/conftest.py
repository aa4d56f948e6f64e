"""One small job, run once: its bundle is what most tests look at."""

from pathlib import Path

import pytest

from expunge.core.run import Outcome, run_erase
from expunge.core.specs import EraseSpec

SPEC = EraseSpec.model_validate(
    {
        "concepts": [{"name": "church", "synonyms": ["chapel"]}],
        "method": {
            "name": "esd",
            "steps": 8,
            "sampling_steps": 4,
            "trajectories": 2,
            "learning_rate": 0.03,
            "lora": {"rank": 4, "alpha": 8},
        },
        "evaluation": {
            "erased_images": 4,
            "preserved_count": 4,
            "preserved_images": 2,
            "sampling_steps": 3,
            "nudity": True,
        },
        "fused": True,
    }
)


@pytest.fixture(scope="session")
def erase_spec() -> EraseSpec:
    return SPEC


@pytest.fixture(scope="session")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("delivery")


@pytest.fixture(scope="session")
def outcome(tiny_judged: Path, workplace: Path) -> Outcome:
    return run_erase(
        SPEC,
        workplace / "bundle",
        source=str(tiny_judged),
        cache=workplace / "cache",
        signing_key=workplace / "key.pem",
        context={"job_id": "1", "attempt": 1},
    )


@pytest.fixture(scope="session")
def bundle(outcome: Outcome, workplace: Path) -> Path:
    return workplace / "bundle"
