"""What every spec has in common: unknown fields and near-misses of a type are refused by name."""

import pytest
from pydantic import ValidationError

from expunge.core.specs import EraseSpec


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
