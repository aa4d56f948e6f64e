"""What every spec has in common: unknown fields and near-misses of a type are refused by name."""

from importlib import import_module
from pathlib import Path

import pytest
from pydantic import ValidationError

from expunge.core.specs import METHODS, EraseSpec
from expunge.core.specs.attacks import ATTACKS
from expunge.core.specs.attacks.__main__ import page as attacks_page
from expunge.core.specs.methods.__main__ import page as methods_page

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("method", "field", "words"),
    [
        ({"name": "uce", "ridge": True}, ("ridge",), "must be a number, not true"),
        ({"name": "uce", "ridge": "5"}, ("ridge",), 'must be a number, not "5"'),
        ({"name": "age", "hard": 1}, ("hard",), "must be true or false"),
        ({"name": "age", "lora": {"rank": "4"}}, ("lora", "rank"), "must be a number"),
        ({"name": "age", "debias": {"tolerance": False}}, ("debias", "tolerance"), "must be a number"),
    ],
)
def test_what_only_looks_like_a_number_or_a_truth_is_refused(method, field, words):
    with pytest.raises(ValidationError) as caught:
        EraseSpec.model_validate({"concepts": ["church"], "method": method})
    (error,) = caught.value.errors()
    assert error["loc"] == ("method", method["name"], *field)
    assert words in error["msg"]


def test_shares_are_numbers():
    with pytest.raises(ValidationError, match="must be a number"):
        EraseSpec.model_validate(
            {"concepts": [{"name": "doctor", "attributes": ["a {}", "b {}"], "shares": ["0.5", 0.5]}]}
        )


def test_a_whole_number_may_be_written_with_a_point_and_a_share_without():
    spec = EraseSpec.model_validate(
        {"concepts": ["church"], "method": {"name": "age", "steps": 5.0, "eta": 1}}
    )
    assert (spec.method.steps, spec.method.eta) == (5, 1.0)


def test_the_page_of_methods_is_the_registry_s():
    assert (ROOT / "docs/methods.md").read_text() == methods_page()


def test_the_page_of_attacks_is_the_registry_s():
    assert (ROOT / "docs/attacks.md").read_text() == attacks_page()


def test_an_attack_is_named_as_its_files_are():
    assert list(ATTACKS) == [spec.model_fields["name"].default for spec in ATTACKS.values()]
    shared = {"__init__", "__main__", "attack", "suite"}
    assert {file.stem for file in (ROOT / "core/specs/attacks").glob("*.py")} - shared == set(ATTACKS)
    for name in ATTACKS:
        assert callable(import_module(f"expunge.core.attacks.{name}").attempt)


def test_a_method_is_named_as_its_files_are():
    assert list(METHODS) == [spec.model_fields["name"].default for spec in METHODS.values()]
    for folder in ("core/specs/methods", "core/erasure/methods"):
        files = {file.stem for file in (ROOT / folder).glob("*.py")} - {"__init__", "__main__"}
        assert files == set(METHODS)
