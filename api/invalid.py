"""Validation errors in the words of the client: the field as written, what is wrong, what would be right."""

import difflib
import re
from collections.abc import Sequence
from typing import Any

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel

from api.problems import FieldError, Problem
from api.requests import KeyRequest, KeyRotation, WebhookPatch, WebhookRequest
from core.specs import (
    METHODS,
    Concept,
    DebiasSpec,
    EraseSpec,
    EvaluateSpec,
    EvaluationSpec,
    HideSpec,
    ImpactSpec,
    InspectSpec,
    LoraSpec,
    RecoverySpec,
    Thresholds,
)

MAX_ERRORS = 50
OBJECTS: dict[str, type[BaseModel]] = {
    "evaluation": EvaluationSpec,
    "thresholds": Thresholds,
    "lora": LoraSpec,
    "concepts": Concept,
    "debias": DebiasSpec,
    "recovery": RecoverySpec,
}
BODIES: dict[Any, str] = {
    WebhookRequest: "a webhook",
    WebhookPatch: "a webhook",
    KeyRequest: "an API key",
    KeyRotation: "a rotation",
}  # bodies that are no jobs', and what they describe
PREFIX = re.compile(r"^([a-z_]+(?:\[\d+\])?(?:\.[a-z_]+(?:\[\d+\])?)*): (.+)$", re.DOTALL)


def path(loc: Sequence[int | str], value: Any) -> tuple[str, ...]:
    """The steps of a pydantic location that the client wrote; names of union members and wrappers fall away."""
    steps: list[str] = []
    for i, step in enumerate(loc):
        last = i == len(loc) - 1
        if isinstance(value, list) and isinstance(step, int):
            steps.append(f"[{step}]")
            value = value[step] if step < len(value) else None
        elif isinstance(value, dict) and (step in value or (last and re.fullmatch(r"\w+", str(step)) and step not in METHODS)):
            steps.append(str(step)[:100])
            value = value.get(step)
    return tuple(steps)


def dotted(steps: Sequence[str]) -> str:
    return ".".join(steps).replace(".[", "[")


def closest(word: str, words: Sequence[str]) -> str:
    """'did you mean …? ' when a word comes near, else ''."""
    near = difflib.get_close_matches(word, words, n=1, cutoff=0.5)
    return f"did you mean '{near[0]}'? " if near else ""


def choice(word: str, words: Sequence[str], what: str) -> str:
    return f"{closest(word, words)}{what}: {', '.join(words)}"


def parameters(steps: Sequence[str], body: Any, model: Any) -> tuple[str, list[str]]:
    """Which parameters exist where an unknown one was written: (of what, names)."""
    names = [step for step in steps[:-1] if not step.startswith("[")]
    if model in BODIES:
        return BODIES[model], list(model.model_fields)
    if not names:
        given = body.keys() if isinstance(body, dict) else set()
        spec: type[BaseModel] = EraseSpec
        if {"job_id", "artifact_id"} & given and "method" not in given:
            inspecting = set(InspectSpec.model_fields) - set(EvaluateSpec.model_fields)
            near = difflib.get_close_matches(steps[-1], inspecting, n=1, cutoff=0.7)
            spec = InspectSpec if inspecting & given or near else EvaluateSpec
        elif {"top", "targets"} & given:
            spec = ImpactSpec
        elif {"recovery", "seal_to"} & given or difflib.get_close_matches(steps[-1], ("recovery", "seal_to"), n=1, cutoff=0.7):
            spec = HideSpec
        return "a job", list(spec.model_fields)
    if names[-1] == "method":
        name = body["method"].get("name", "")
        return f"method '{name}'", list(METHODS[name].model_fields)
    return f"'{names[-1]}'", list(OBJECTS[names[-1]].model_fields) if names[-1] in OBJECTS else []


def explain(error: dict[str, Any], body: Any, model: Any) -> FieldError:
    """One pydantic error, told to the client."""
    source, *loc = error["loc"]
    if source != "body":
        return FieldError(field=dotted([str(source), *map(str, loc)]), message=error["msg"])
    steps = path(loc, body)
    message, remedy, context = str(error["msg"]), None, error.get("ctx", {})
    match error["type"]:
        case "extra_forbidden":
            what, names = parameters(steps, body, model)
            message, remedy = f"{what} has no parameter '{steps[-1]}'", choice(steps[-1], names, f"{what} takes")
        case "union_tag_invalid":
            steps = (*steps, "name") if isinstance(body.get("method"), dict) else steps
            tag, names = str(context["tag"])[:100], re.findall(r"'(\w+)'", context["expected_tags"])
            message = f"the method '{tag}' is not for this sort of job" if tag in METHODS else f"there is no method '{tag}'"
            remedy = choice(tag, names, "methods")
        case "union_tag_not_found":
            message, remedy = (
                "must be a method's name, or an object with 'name' and that method's parameters",
                choice("", list(METHODS), "methods"),
            )
        case "missing" if not loc:
            message, remedy = (
                "a JSON object is needed",
                'send one, with Content-Type: application/json, for example {"concepts": ["church"]}',
            )
        case "missing":
            message = "is needed"
        case "none_required":
            message, remedy = "is not for this sort of job", "omit it"
        case "literal_error":
            message = f"must be {context['expected']}"
        case "value_error":
            message = message.removeprefix("Value error, ")
            if named := PREFIX.match(message):
                steps, message = (*steps, named[1]), named[2]
            if ": " in message:
                message, remedy = message.split(": ", 1)
    return FieldError(field=dotted(steps) or "body", message=message, remedy=remedy)


def merged(errors: list[FieldError]) -> list[FieldError]:
    """One error a field: members of a union each complain, the client wants one sentence."""
    found: dict[str, FieldError] = {}
    for error in errors:
        seen = found.setdefault(error.field, error)
        if seen is not error and error.message not in seen.message:
            seen.message = f"{seen.message}; or {error.message}"
            seen.remedy = seen.remedy or error.remedy
    return list(found.values())


def problem(exc: RequestValidationError, model: Any = None) -> Problem:
    """`model` is what the body was to be."""
    errors = merged([explain(dict(error), exc.body, model) for error in exc.errors()[:MAX_ERRORS]])
    first = errors[0]
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    remedy = f": {first.remedy}" if first.remedy else ""
    return Problem("invalid_request", f"{first.field}: {first.message}{remedy}{more}", errors=errors)
