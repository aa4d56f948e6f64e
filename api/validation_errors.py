"""Validation errors in the words of the client: the field as written, what is wrong, what would be right.

No word of the validator's own leaves.
"""

import json
import re
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Union, get_args, get_origin

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel

from expunge.api.problems import FieldError, Problem
from expunge.api.request_schemas import KeyRequest, KeyRotation, PauseRequest, WebhookPatch, WebhookRequest
from expunge.api.schemas import LinkSpec
from expunge.api.suggestions import choice, parameter
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

MAX_ERRORS = 50
CALLED: dict[Any, str] = {
    EraseSpec: "an erase job",
    HideSpec: "a hide job",
    EvaluateSpec: "an evaluate job",
    CombineSpec: "a combine job",
    InspectSpec: "an inspect job",
    ImpactSpec: "the question what an erasure would hurt",
    WebhookRequest: "a webhook",
    WebhookPatch: "a webhook",
    KeyRequest: "an API key",
    KeyRotation: "a rotation",
    PauseRequest: "a pause",
    LinkSpec: "a link",
}
"""Bodies, and what they describe."""
UUID = "0b0d6f2e-6a43-4f0c-9d6b-2f6f5f6d9b11"
SENT: dict[Any, Any] = {
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
"""Bodies, and an example of what is sent; of all others it is a concept's."""
UNUSED: dict[Any, tuple[str, ...]] = {HideSpec: ("base_job_id", "inversion")}
"""What a body has from another and makes no use of."""
SHARES = {
    *Thresholds.model_fields,
    *HideThresholds.model_fields,
    "keep",
    "saliency",
    "tolerance",
    "warm_up",
    "shares",
}
"""Numbers that are shares, which people write per cent."""
PREFIX = re.compile(r"^([a-z_]+(?:\[\d+\])?(?:\.[a-z_]+(?:\[\d+\])?)*): (.+)$", re.DOTALL)
BOUNDS = {
    "greater_than": ("gt", "more than"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "less than"),
    "less_than_equal": ("le", "at most"),
    "multiple_of": ("multiple_of", "a multiple of"),
}
OBJECTS = {
    Concept: ("must be a name, or an object with 'name'", 'write "church", or {"name": "church"}'),
    "method": (
        "must be a method's name, or an object with 'name' and that method's parameters",
        f'write "age", or {{"name": "age"}}; methods: {", ".join(METHODS)}',
    ),
    "evaluation": (
        "must be an object",
        'write {"enabled": false}, or {"erased_images": 8}; left out, it has its defaults',
    ),
}


def example(model: Any) -> str:
    return json.dumps(SENT.get(model, {"concepts": ["church"]}))


def path(loc: Sequence[int | str], value: Any) -> tuple[str, ...]:
    """The steps of a pydantic location that the client wrote; names of union members and wrappers fall
    away.
    """
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


def dotted(steps: Sequence[str]) -> str:
    return ".".join(steps).replace(".[", "[")


def written(steps: Sequence[str], body: Any) -> Any:
    """What the client wrote at these steps."""
    for step in steps:
        body = body[int(step[1:-1])] if step.startswith("[") else body.get(step)
    return body


def models(annotation: Any) -> Iterator[type[BaseModel]]:
    """The objects that an annotation admits, in lists and unions too."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) in (Annotated, Union, types.UnionType, list):
        for inner in get_args(annotation)[: 1 if get_origin(annotation) is Annotated else None]:
            yield from models(inner)


def model_at(steps: Sequence[str], body: Any, model: Any) -> type[BaseModel] | None:
    """Which object stands where the steps lead; of methods, the one that the body names."""
    for step in steps:
        value = (
            body.get(step)
            if isinstance(body, dict)
            else body[int(step[1:-1])]
            if isinstance(body, list)
            else None
        )
        if not step.startswith("["):
            field = model.model_fields.get(step) if model else None
            members = list(models(field.annotation)) if field else []
            name = value.get("name") if isinstance(value, dict) else None
            model = next(
                (m for m in members if len(members) == 1 or m.model_fields["name"].default == name), None
            )
        body = value
    found: type[BaseModel] | None = model
    return found


def takes(steps: Sequence[str], body: Any, model: Any) -> tuple[str, list[str]]:
    """Which parameters exist in the object at these steps: (of what, names)."""
    found = model_at(steps, body, model)
    names = [name for name in found.model_fields if name not in UNUSED.get(found, ())] if found else []
    if not steps:
        return CALLED.get(model, "the body"), names
    last = next(step for step in reversed(steps) if not step.startswith("["))
    method = (
        found is not None
        and METHODS.get(str(getattr(found.model_fields.get("name"), "default", ""))) is found
    )
    return (f"method '{found.model_fields['name'].default}'" if method and found else f"'{last}'"), names


def shown(value: Any) -> str:
    """What was sent, as JSON, cut."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:57]}…"


def bound(kind: str, context: Mapping[str, Any], value: Any, field: str) -> tuple[str, str | None]:
    """A number out of its range."""
    name, words = BOUNDS[kind]
    limit = context[name]
    share = kind.startswith("less") and field in SHARES and isinstance(value, int | float) and value <= 100
    remedy = f"it is a share between 0 and 1, not per cent: write {value / 100:g}" if share else None
    return f"must be {words} {limit:.10g}, not {shown(value)}", remedy


def counted(context: Mapping[str, Any], least: bool) -> str:
    number = context["min_length" if least else "max_length"]
    actual = context.get("actual_length")
    return f"{'needs at least' if least else 'takes at most'} {number:,} member{'s' * (number != 1)}" + (
        "" if actual is None else f", not {actual:,}"
    )


def literal(context: Mapping[str, Any], value: Any) -> tuple[str, str | None]:
    expected = str(context["expected"])
    names = re.findall(r"'([^']*)'", expected)
    meant = parameter(value, names) if isinstance(value, str) else None
    return f"must be {expected}, not {shown(value)}", f"did you mean '{meant}'?" if meant else None


def told(kind: str, value: Any, context: Mapping[str, Any], field: str, what: Any) -> tuple[str, str | None]:
    """(what is wrong, what would be right) of each sort of pydantic error; `what` is the object, or the
    field, that should stand there.
    """
    match kind:
        case "missing":
            return "is needed", None
        case "none_required":
            return "is not for this sort of job", "omit it"
        case "string_type" | "string_sub_type" | "string_unicode":
            return f"must be a text, not {shown(value)}", (
                "write it in quotes" if isinstance(value, int | float) else None
            )
        case "int_type" | "int_parsing" | "int_from_float" | "int_parsing_size":
            return f"must be a whole number, not {shown(value)}", None
        case "float_type" | "float_parsing":
            return f"must be a number, not {shown(value)}", None
        case "finite_number":
            return "must be a finite number", None
        case "bool_type" | "bool_parsing":
            return f"must be true or false, not {shown(value)}", None
        case "list_type" | "tuple_type" | "set_type":
            single = isinstance(value, str) or (isinstance(value, dict) and what in OBJECTS)
            return (
                f"must be a list, not {shown(value)}",
                f"write {shown([value])}" if value and single else None,
            )
        case "dict_type" | "mapping_type" | "model_type" | "model_attributes_type":
            if not field:
                return "must be a JSON object", f"send one, for example {example(what)}"
            return (
                OBJECTS.get(what)
                or OBJECTS.get(field)
                or (f"must be an object, not {shown(value)}", "write it in braces, {}")
            )
        case "too_long" if isinstance(value, str):
            return f"has {len(value)} characters, at most {context['max_length']} are allowed", None
        case "too_short":
            return counted(context, True), None
        case "too_long":
            return counted(context, False), None
        case "string_too_short":
            return (
                (
                    "must not be empty"
                    if not value
                    else f"has {len(value)} characters, at least {context['min_length']} are needed"
                ),
                None,
            )
        case "string_too_long":
            return f"has {len(value)} characters, at most {context['max_length']} are allowed", None
        case "string_pattern_mismatch":
            return f"{shown(value)} is not written as it may be", "letters, digits, '.', '_' and '-' only"
        case "literal_error" | "enum":
            return literal(context, value)
        case "uuid_type" | "uuid_parsing" | "uuid_version":
            return f"{shown(value)} is not an id", f"give a UUID, such as {UUID}"
        case "union_tag_not_found":
            return OBJECTS["method"]
        case _ if kind in BOUNDS:
            return bound(kind, context, value, field)
    return f"{shown(value)} cannot be used here", "GET /openapi.json says what the field takes"


def of_field(field: str, text: str) -> Problem:
    """A 422 about one field, from 'what is wrong: what would be right'."""
    message, _, remedy = text.partition(": ")
    return Problem(
        "invalid_request",
        f"{field}: {text}",
        errors=[FieldError(field=field, message=message, remedy=remedy or None)],
    )


def optional(steps: Sequence[str], body: Any, model: Any) -> bool:
    """Whether the field at these steps may be left out."""
    of = model_at(steps[:-1], body, model) if steps and written(steps[:-1], body) else None
    field = of.model_fields.get(steps[-1]) if of else None
    return field is not None and not field.is_required()


def explain(error: dict[str, Any], body: Any, model: Any) -> FieldError:
    """One pydantic error, told to the client."""
    source, *loc = error["loc"]
    kind, value, context = error["type"], error.get("input"), error.get("ctx", {})
    inside = source == "body"
    steps = path(loc, body) if inside else (str(source), *map(str, loc))
    last = next((step for step in reversed(steps) if not step.startswith("[")), "")
    message: str
    remedy: str | None = None
    if kind == "extra_forbidden":
        what, names = takes(steps[:-1], body, model)
        message, remedy = f"{what} has no parameter '{steps[-1]}'", choice(steps[-1], names, f"{what} takes")
    elif kind == "union_tag_invalid":
        steps = (*steps, "name") if inside and isinstance(written(steps, body), dict) else steps
        tag, names = str(context["tag"])[:100], re.findall(r"'(\w+)'", context["expected_tags"])
        message = (
            f"the method '{tag}' is not for this sort of job"
            if tag in METHODS
            else f"there is no method '{tag}'"
        )
        if isinstance(value, dict) and not isinstance(value.get("name"), str):
            message = f"must be a method's name, not {shown(value.get('name'))}"
        remedy = choice(tag, names, "methods")
    elif kind == "missing" and inside and not loc:
        message, remedy = (
            "a JSON object is needed",
            f"send one, with Content-Type: application/json, for example {example(model)}",
        )
    elif kind in ("value_error", "not_exact", "assertion_error"):
        message = str(error["msg"]).removeprefix("Value error, ").removeprefix("Assertion failed, ")
        if named := PREFIX.match(message):
            steps, message = (*steps, named[1]), named[2]
        message, _, rest = message.partition(": ")
        remedy = rest or None
    else:
        message, remedy = told(
            kind, value, context, last, (model_at(steps, body, model) if steps else model) if inside else None
        )
    if value is None and remedy is None and inside and optional(steps, body, model):
        remedy = "leave it out, and it has its default"
    return FieldError(field=dotted(steps) or "body", message=message, remedy=remedy)


def merged(errors: list[FieldError]) -> list[FieldError]:
    """One error a field: members of a union each complain, the client wants one sentence.

    What is wrong within a value says more than that of the whole.
    """
    found: dict[str, FieldError] = {}
    for error in errors:
        if any(other.field.startswith((f"{error.field}.", f"{error.field}[")) for other in errors):
            continue
        seen = found.setdefault(error.field, error)
        if seen is not error and error.message not in seen.message:
            seen.message = f"{seen.message}; or {error.message}"
            seen.remedy = seen.remedy or error.remedy
    return list(found.values())


def problem(exc: RequestValidationError, model: Any = None) -> Problem:
    """`model` is what the body was to be."""
    # A misspelt name before what lacks for it
    raised = sorted(exc.errors()[:MAX_ERRORS], key=lambda error: error["type"] == "missing")
    errors = merged([explain(dict(error), exc.body, model) for error in raised])
    first = errors[0]
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    remedy = f": {first.remedy}" if first.remedy else ""
    return Problem("invalid_request", f"{first.field}: {first.message}{remedy}{more}", errors=errors)
