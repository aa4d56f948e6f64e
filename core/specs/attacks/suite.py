"""A suite of attacks with their budgets: its digest, and whether the attacks that were made cover it."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from expunge.core.specs.attacks import ATTACKS, Preset, attacks_of
from expunge.core.specs.attacks.attack import AttackSpec

Facts = Mapping[str, Any]
MORE_IS_STRONGER = frozenset(
    {"images", "restarts", "steps", "lessons", "population", "generations", "candidates", "top_k"}
)
"""Parameters of which more is the same attack with a higher budget."""
LUCK = "seed"  # another one is the same attack


def facts_of(attack: AttackSpec) -> dict[str, Any]:
    """An attack with its version and budget, as verdicts keep it."""
    return {"version": attack.version, **attack.model_dump(mode="json")}


def suite_of(preset: Preset) -> list[dict[str, Any]]:
    """The attacks of a preset, as this release knows them."""
    return [facts_of(attack) for attack in attacks_of(preset)]


def digest_of(suite: Sequence[Facts]) -> str:
    """sha256 of the suite, hex: another one wherever a name, a version or a parameter is another."""
    return hashlib.sha256(json.dumps(suite, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def is_covered(suite: Sequence[Facts], made: Sequence[Facts]) -> bool:
    """Whether every attack of the suite is among those that were made: as new, and with as much budget."""
    return all(any(holds(done, wanted) for done in made) for wanted in suite)


def holds(done: Facts, wanted: Facts) -> bool:
    """Whether an attack that was made counts as the wanted one. What it lacks had not been thought of then,
    and was as its default is.
    """
    if done.get("name") != wanted["name"] or done.get("version", 0) < wanted["version"]:
        return False
    fields = ATTACKS[wanted["name"]].model_fields
    for name, value in wanted.items():
        if name in (LUCK, "name", "version"):
            continue
        had = done[name] if name in done else fields[name].get_default(call_default_factory=True)
        if name in MORE_IS_STRONGER:
            enough = had >= value
        elif isinstance(value, list):
            enough = set(value) <= set(had)
        else:
            enough = had == value
        if not enough:
            return False
    return True
