"""Validation errors in the service's own words: the field as the client wrote it, the error, the remedy.

None of pydantic's messages reaches the client.
"""

import json
import re
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Union, get_args, get_origin

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel

from expunge.api.problems import FieldError, Problem
from expunge.api.request_schemas import (
    KeyRequest,
    KeyRotation,
    LinkSpec,
    PauseRequest,
    WebhookPatch,
    WebhookRequest,
)
from expunge.api.suggestions import choices, closest_parameter
from expunge.core.specs import (
    METHODS,
    CombineSpec,
    Concept,
    EraseSpec,
    EvaluateSpec,
    HideSpec,
    HideThresholds,
    ImpactSpec,
    InspectSpec,
    Thresholds,
)

Explanation = tuple[str, str | None]
"""What is wrong, and how to correct it."""
MAX_ERRORS = 50
BODY_NAMES: dict[Any, str] = {
    EraseSpec: "an erase job",
    HideSpec: "a hide job",
    EvaluateSpec: "an evaluate job",
    CombineSpec: "a combine job",
    InspectSpec: "an inspect job",
    ImpactSpec: "an impact prediction",
    WebhookRequest: "a webhook",
    WebhookPatch: "a webhook",
    KeyRequest: "an API key",
    KeyRotation: "a rotation",
    PauseRequest: "a pause",
    LinkSpec: "a link",
}
"""What each body describes."""
UUID = "0b0d6f2e-6a43-4f0c-9d6b-2f6f5f6d9b11"
EXAMPLES: dict[Any, Any] = {
    EvaluateSpec: {"job_id": UUID},
    CombineSpec: {"jobs": [UUID]},
    InspectSpec: {"job_id": UUID},
    WebhookRequest: {"url": "https://example.com/expunge"},
    WebhookPatch: {"enabled": False},
    KeyRequest: {"name": "ci", "scopes": ["jobs:read"]},
    KeyRotation: {"overlap_s": 3600},
    PauseRequest: {"hand_over": True},
    LinkSpec: {"lifetime_s": 60},
}
"""An example of each body; all others take `concepts`."""
UNUSED_FIELDS: dict[Any, tuple[str, ...]] = {HideSpec: ("base_job_id", "append_job_id", "inversion")}
"""Fields that a body inherits and does not use."""
SHARES = {
    *Thresholds.model_fields,
    *HideThresholds.model_fields,
    "keep",
    "saliency",
    "tolerance",
    "warm_up",
    "shares",
}
"""Fields that are shares between 0 and 1, which people write as percentages."""
FIELD_PREFIX = re.compile(r"^([a-z_]+(?:\[\d+\])?(?:\.[a-z_]+(?:\[\d+\])?)*): (.+)$", re.DOTALL)
BOUNDS = {
    "greater_than": ("gt", "more than"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "less than"),
    "less_than_equal": ("le", "at most"),
    "multiple_of": ("multiple_of", "a multiple of"),
}
OBJECTS: dict[Any, Explanation] = {
    Concept: ("must be a name, or an object with 'name'", 'write "church", or {"name": "church"}'),
    "method": (
        "must be a method's name, or an object with 'name' and that method's parameters",
        f'write "age", or {{"name": "age"}}; methods: {", ".join(METHODS)}',
    ),
    "evaluation": (
        "must be an object",
        'write {"enabled": false}, or {"erased_images": 8}, or omit it to use its defaults',
    ),
    "leakage": (
        "must be an object",
        'write {} for the defaults, or {"pairs": 48}, or omit it: then it is not measured',
    ),
}
"""What to write where an object is expected, by its model or by the field's name."""


def validation_problem(exc: RequestValidationError, model: Any = None) -> Problem:
    """The 422 for a request; `model` is the model of the route's body."""
    # Unknown fields before missing ones: a misspelt name is often the cause of a missing one
    raw_errors = sorted(exc.errors()[:MAX_ERRORS], key=lambda error: error["type"] == "missing")
    errors = merge_by_field([explain(dict(error), exc.body, model) for error in raw_errors])
    first = errors[0]
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    remedy = f": {first.remedy}" if first.remedy else ""
    return Problem("invalid_request", f"{first.field}: {first.message}{remedy}{more}", errors=errors)


def field_problem(field: str, text: str) -> Problem:
    """A 422 about one field, from the text 'error: remedy'."""
    message, _, remedy = text.partition(": ")
    error = FieldError(field=field, message=message, remedy=remedy or None)
    return Problem("invalid_request", f"{field}: {text}", errors=[error])


def explain(error: dict[str, Any], body: Any, model: Any) -> FieldError:
    """One of pydantic's errors, in the service's words."""
    source, *loc = error["loc"]
    kind, value, context = error["type"], error.get("input"), error.get("ctx", {})
    in_body = source == "body"
    steps = written_path(loc, body) if in_body else (str(source), *map(str, loc))
    message: str
    remedy: str | None = None
    if kind == "extra_forbidden":
        owner, names = parameters_at(steps[:-1], body, model)
        message = f"{owner} has no parameter '{steps[-1]}'"
        remedy = choices(steps[-1], names, f"{owner} takes")
    elif kind == "union_tag_invalid":
        if in_body and isinstance(value_at(steps, body), dict):
            steps = (*steps, "name")
        message, remedy = explain_method_name(value, context)
    elif kind == "missing" and in_body and not loc:
        message = "a JSON object is required"
        remedy = f"send one, with Content-Type: application/json, for example {example_of(model)}"
    elif kind in ("value_error", "not_exact", "assertion_error"):
        # An error of our own: '[field: ]error: remedy'
        text = str(error["msg"]).removeprefix("Value error, ").removeprefix("Assertion failed, ")
        if named := FIELD_PREFIX.match(text):
            steps, text = (*steps, named[1]), named[2]
        message, _, rest = text.partition(": ")
        remedy = rest or None
    else:
        field = next((step for step in reversed(steps) if not step.startswith("[")), "")
        expected = None
        if in_body:
            expected = model_at(steps, body, model) if steps else model
        message, remedy = explain_kind(kind, value, context, field, expected)
    if value is None and remedy is None and in_body and is_optional(steps, body, model):
        remedy = "omit it to use its default"
    return FieldError(field=join_path(steps) or "body", message=message, remedy=remedy)


def merge_by_field(errors: list[FieldError]) -> list[FieldError]:
    """One error for each field: the members of a union each report one.

    An error inside a value is more precise than one of the whole value, which is dropped.
    """
    found: dict[str, FieldError] = {}
    for error in errors:
        if any(other.field.startswith((f"{error.field}.", f"{error.field}[")) for other in errors):
            continue
        first = found.setdefault(error.field, error)
        if first is not error and error.message not in first.message:
            first.message = f"{first.message}; or {error.message}"
            first.remedy = first.remedy or error.remedy
    return list(found.values())


# Where in the request


def written_path(loc: Sequence[int | str], value: Any) -> tuple[str, ...]:
    """The steps of a pydantic location that the client wrote, without names of union members and wrappers."""
    steps: list[str] = []
    for i, step in enumerate(loc):
        last = i == len(loc) - 1
        if isinstance(value, list) and isinstance(step, int):
            steps.append(f"[{step}]")
            value = value[step] if step < len(value) else None
        elif isinstance(value, dict) and (
            step in value or (last and re.fullmatch(r"\w+", str(step)) and step not in METHODS)
        ):
            steps.append(str(step)[:100])
            value = value.get(step)
    return tuple(steps)


def join_path(steps: Sequence[str]) -> str:
    return ".".join(steps).replace(".[", "[")


def value_at(steps: Sequence[str], body: Any) -> Any:
    """What the client wrote at these steps."""
    for step in steps:
        body = body[int(step[1:-1])] if step.startswith("[") else body.get(step)
    return body


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models that an annotation admits, in lists and unions too."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) is Annotated:
        yield from models_in(get_args(annotation)[0])
    elif get_origin(annotation) in (Union, types.UnionType, list):
        for inner in get_args(annotation):
            yield from models_in(inner)


def model_at(steps: Sequence[str], body: Any, model: Any) -> type[BaseModel] | None:
    """The model of the object at these steps; of methods, the one that the body names."""
    for step in steps:
        value = None
        if isinstance(body, dict):
            value = body.get(step)
        elif isinstance(body, list):
            value = body[int(step[1:-1])]
        if not step.startswith("["):
            field = model.model_fields.get(step) if model else None
            members = list(models_in(field.annotation)) if field else []
            name = value.get("name") if isinstance(value, dict) else None
            model = next(
                (m for m in members if len(members) == 1 or m.model_fields["name"].default == name), None
            )
        body = value
    found: type[BaseModel] | None = model
    return found


def parameters_at(steps: Sequence[str], body: Any, model: Any) -> tuple[str, list[str]]:
    """(what the object at these steps is, the names of its parameters)."""
    found = model_at(steps, body, model)
    names = [name for name in found.model_fields if name not in UNUSED_FIELDS.get(found, ())] if found else []
    if not steps:
        return BODY_NAMES.get(model, "the body"), names
    if found is not None and "name" in found.model_fields:
        method = found.model_fields["name"].default
        if METHODS.get(str(method)) is found:
            return f"method '{method}'", names
    field = next(step for step in reversed(steps) if not step.startswith("["))
    return f"'{field}'", names


def is_optional(steps: Sequence[str], body: Any, model: Any) -> bool:
    """Whether the field at these steps may be omitted."""
    parent = model_at(steps[:-1], body, model) if steps and value_at(steps[:-1], body) else None
    field = parent.model_fields.get(steps[-1]) if parent else None
    return field is not None and not field.is_required()


# What is wrong, and how to correct it


def as_json(value: Any) -> str:
    """What the client sent, as JSON of at most 60 characters."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:57]}…"


def example_of(model: Any) -> str:
    return json.dumps(EXAMPLES.get(model, {"concepts": ["church"]}))


def explain_method_name(value: Any, context: Mapping[str, Any]) -> Explanation:
    """A method that does not exist, or not for this kind of job."""
    name, names = str(context["tag"])[:100], re.findall(r"'(\w+)'", context["expected_tags"])
    if isinstance(value, dict) and not isinstance(value.get("name"), str):
        message = f"must be a method's name, not {as_json(value.get('name'))}"
    elif name in METHODS:
        message = f"the method '{name}' is not available for this kind of job"
    else:
        message = f"there is no method '{name}'"
    return message, choices(name, names, "methods")


def out_of_range(kind: str, context: Mapping[str, Any], value: Any, field: str) -> Explanation:
    """A number that is too small, too large or not a multiple."""
    name, words = BOUNDS[kind]
    limit = context[name]
    remedy = None
    if kind.startswith("less") and field in SHARES and isinstance(value, int | float) and value <= 100:
        remedy = f"it is a share between 0 and 1, not a percentage: write {value / 100:g}"
    return f"must be {words} {limit:.10g}, not {as_json(value)}", remedy


def wrong_length(context: Mapping[str, Any], limit: str, words: str) -> Explanation:
    """A list with too few or too many members."""
    number, actual = context[limit], context.get("actual_length")
    given = "" if actual is None else f", not {actual:,}"
    return f"{words} {number:,} member{'' if number == 1 else 's'}{given}", None


def not_a_choice(context: Mapping[str, Any], value: Any) -> Explanation:
    """A value that is not one of those listed."""
    expected = str(context["expected"])
    meant = closest_parameter(value, re.findall(r"'([^']*)'", expected)) if isinstance(value, str) else None
    return f"must be {expected}, not {as_json(value)}", f"did you mean '{meant}'?" if meant else None


def explain_kind(kind: str, value: Any, context: Mapping[str, Any], field: str, expected: Any) -> Explanation:
    """Each kind of pydantic error; `expected` is the model of the object that should be there, if any."""
    match kind:
        case "missing":
            return "is required", None
        case "none_required":
            return "is not available for this kind of job", "omit it"
        # The wrong type.
        case "string_type" | "string_sub_type" | "string_unicode":
            remedy = "write it in quotes" if isinstance(value, int | float) else None
            return f"must be a text, not {as_json(value)}", remedy
        case "int_type" | "int_parsing" | "int_from_float" | "int_parsing_size":
            return f"must be a whole number, not {as_json(value)}", None
        case "float_type" | "float_parsing":
            return f"must be a number, not {as_json(value)}", None
        case "finite_number":
            return "must be a finite number", None
        case "bool_type" | "bool_parsing":
            return f"must be true or false, not {as_json(value)}", None
        case "list_type" | "tuple_type" | "set_type":
            single = isinstance(value, str) or (isinstance(value, dict) and expected in OBJECTS)
            remedy = f"write {as_json([value])}" if value and single else None
            return f"must be a list, not {as_json(value)}", remedy
        case "dict_type" | "mapping_type" | "model_type" | "model_attributes_type":
            if not field:
                return "must be a JSON object", f"send one, for example {example_of(expected)}"
            default = f"must be an object, not {as_json(value)}", "write it in braces, {}"
            return OBJECTS.get(expected) or OBJECTS.get(field) or default
        # The wrong length, form or choice.
        case "too_short":
            return wrong_length(context, "min_length", "needs at least")
        case "too_long" if not isinstance(value, str):
            return wrong_length(context, "max_length", "takes at most")
        case "string_too_short":
            if not value:
                return "must not be empty", None
            return f"has {len(value)} characters; at least {context['min_length']} are required", None
        case "string_too_long" | "too_long":
            return f"has {len(value)} characters; at most {context['max_length']} are allowed", None
        case "string_pattern_mismatch":
            return (
                f"{as_json(value)} has characters that are not allowed",
                "use letters, digits, '.', '_' and '-'",
            )
        case "literal_error" | "enum":
            return not_a_choice(context, value)
        case "uuid_type" | "uuid_parsing" | "uuid_version":
            return f"{as_json(value)} is not an id", f"give a UUID, such as {UUID}"
        case "union_tag_not_found":
            return OBJECTS["method"]
        case _ if kind in BOUNDS:
            return out_of_range(kind, context, value, field)
    return f"{as_json(value)} cannot be used here", "see what the field takes in GET /openapi.json"
