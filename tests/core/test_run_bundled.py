"""The bundled model and its judges through the whole run: numbers that mean something."""

from pathlib import Path

import pytest

from expunge.core.delivery.verify import verify
from expunge.core.evaluation.judges import judges_for
from expunge.core.evaluation.report import Report
from expunge.core.run import run_erase
from expunge.core.specs import EraseSpec


def test_the_bundled_judges_are_all_there():
    judges = judges_for("bundled:emoji")
    assert judges.missing == {}
    assert "church" in judges.concept.classes
    assert "noto" in judges.style.classes
    assert len(judges.digests()) == 3


@pytest.mark.slow
def test_uce_takes_the_church_out_and_the_report_says_so(tmp_path: Path):
    spec = EraseSpec.model_validate(
        {
            "concepts": ["church"],
            "method": "uce",
            "evaluation": {
                "erased_images": 8,
                "preserved_concepts": ["dog", "trumpet", "fish"],
                "preserved_images": 3,
                "sampling_steps": 20,
            },
        }
    )
    outcome = run_erase(
        spec,
        tmp_path / "out",
        source="bundled:emoji",
        cache=tmp_path / "cache",
        signing_key=tmp_path / "key.pem",
    )
    report = Report.model_validate_json((tmp_path / "out" / "report.json").read_text())
    assert report.value("esr1_base", "church") < 0.5  # the base model draws churches
    assert report.value("esr1", "church") >= 0.9  # the sanitized one does not
    assert report.value("psr1_base") >= 0.6
    # The church's CLIP score falls most
    assert report.value("clip_delta", "church") > report.value("clip_delta")
    check = outcome.verdict["checks"][0]
    assert (check["metric"], check["concept"], check["threshold"]) == ("esr1", "church", 0.95)
    assert check["value"] == report.value("esr1", "church")
    assert check["status"] == "not shown"  # as flawless as its few pictures are, they show no 95 %
    assert check["cause"] == "few_pictures"
    assert check["ci_low"] < 0.95 <= check["ci_high"]
    assert verify(tmp_path / "out", (tmp_path / "key.pem.pub").read_bytes()).signature == "trusted"
