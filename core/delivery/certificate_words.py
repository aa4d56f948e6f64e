"""What a certificate certifies, and what it does not, in words for whoever has to rely on it."""

from typing import Any

from expunge.core.delivery.certificate import Certificate, Statement
from expunge.core.phrasing import listing

DEEDS = {
    "erase": "to erase {concepts} from",
    "hide": "to hide {concepts} in",
    "combine": "to combine the deltas of {concepts} on",
    "evaluate": "to judge the erasure of {concepts} on",
    "inspect": "to say what moved in",
}


def certified(statement: Statement, files: int, key: str | None) -> list[str]:
    """What the signer vouches for."""
    said = statement.predicate
    about = listing([f"{each.name} ({digest_of(each.digest)})" for each in statement.subject])
    base = said.base_model
    model = f"'{base.name}' ({digest_of(base.digest)})" if base else "a model"
    deed = DEEDS.get(said.kind or "", "to work on").format(concepts=concepts_of(said) or "what it names")
    lines = [
        f"These {files} files are those that the holder of key {key} sealed on {said.created_at}.",
        f"It is about {about}, and about no other bytes.",
        f"The job was {deed} {model}; the whole request, with every default, is in it.",
    ]
    if said.verdict is not None:
        lines.append(f"The verdict was: {verdict_of(said.verdict)}, by the report in this bundle.")
        lines.append(f"It was judged by {listing(list(said.judges)) or 'no judge'}, with these very weights.")
    if said.attacks:
        names = listing(list(dict.fromkeys(str(each.get("name", "?")) for each in said.attacks)))
        lines.append(f"It was attacked by {names}, with the budgets that it states.")
    return lines


def not_certified(statement: Statement, signature: str) -> list[str]:
    """What nobody may conclude from it."""
    said = statement.predicate
    lines = list[str]()
    if signature != "trusted":
        lines.append(
            "Who signed it: nobody vouched for the key. Give the signer's with --public-key or --url."
        )
    lines.append("That the signer measured well: --rerun METRIC measures a figure anew.")
    if said.verdict is None:
        lines.append("That anything was erased: no verdict was taken.")
    else:
        lines.append("Anything about prompts, seeds or concepts that are not in the report.")
    if said.kind != "inspect":
        lines.append(
            "That the concept cannot be brought back by an attack or a budget that it does not list."
            if said.attacks
            else "That the concept cannot be brought back: nobody attacked it."
        )
        lines.append("That whoever has the base model, or takes the delta off, will not draw the concept.")
    lines.append("That the base model, where somebody else trained it, carries no trigger.")
    return lines


def verdict_of(verdict: dict[str, Any]) -> str:
    """Passed, failed or not shown; bundles of earlier versions say it by `passed` alone."""
    words: dict[Any, str] = {True: "passed", False: "failed"}
    return str(verdict.get("status") or words.get(verdict.get("passed"), "not shown"))


def concepts_of(said: Certificate) -> str:
    """The names of the request's concepts, or of the jobs that it combines."""
    concepts = said.spec.get("concepts")
    if not isinstance(concepts, list):
        return listing([str(job) for job in said.spec.get("jobs") or []])
    names = [str(each.get("name")) if isinstance(each, dict) else str(each) for each in concepts]
    return listing([f"'{name}'" for name in names])


def digest_of(digest: dict[str, str]) -> str:
    """The first digits of a digest, by its algorithm: 'sha256 0123456789ab…'."""
    algorithm, value = next(iter(digest.items()))
    return f"{algorithm} {value[:12]}…"
