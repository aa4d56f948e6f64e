"""Every place of every body, spoiled in every way: what a spec lets through, a worker would have to live
with.
"""

import json
import re

import pytest
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError

from expunge.api import request_schemas, validation_errors
from expunge.core import specs
from tests.support.bad_requests import GOOD, MARK, dotted, near, places, replaced, ways_wrong

BODIES: dict[str, type[BaseModel]] = {
    name: next(getattr(module, name) for module in (specs, request_schemas) if hasattr(module, name))
    for name in GOOD
}


def fields(model: type[BaseModel], body: object) -> list[str]:
    """The fields that the refusal of this body names; none when it is accepted."""
    try:
        model.model_validate(body)
    except ValidationError as error:
        found = validation_errors.validation_problem(
            RequestValidationError([{**e, "loc": ("body", *e["loc"])} for e in error.errors()], body=body),
            model,
        )
        assert not VALIDATOR.search(json.dumps([(e.message, e.remedy) for e in found.errors or ()])), (
            found.detail
        )
        return [e.field for e in found.errors or ()]
    return []


VALIDATOR = re.compile(
    r"Input should|should be a valid|should have at|should match|Field required|Extra inputs|Value"
    r" error|Unable to"
)
"""What a message of pydantic's own would say."""
pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", GOOD)
def test_nothing_stands_where_it_may_not_and_each_fault_is_named(name: str):
    passed, tried = set(), 0
    for good in GOOD[name]:
        assert fields(BODIES[name], good) == []
        for at, value in places(good):
            for bad in ways_wrong(at, value):
                if at == ("url",) and isinstance(bad, str):  # expunge.store.webhook_targets takes URLs apart
                    continue
                tried += 1
                body = json.loads(json.dumps(replaced(good, at, bad)).replace(f'"{MARK}"', "1e999"))
                if not any(near(field, dotted(at)) for field in fields(BODIES[name], body)):
                    passed.add((dotted(at), json.dumps(bad)[:60], str(fields(BODIES[name], body))[:200]))
    assert not passed
    assert tried >= len(GOOD[name])
