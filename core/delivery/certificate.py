"""certificate.json: the outcome of a job as an in-toto statement (v1) in a DSSE envelope, which tools that
know nothing of Expunge can check. Imports no torch.

It stands on the manifest: it is derived from the manifest and the report, names both by their sha256, and is
signed with the same key. Whoever checks a bundle derives it again: it may contradict neither.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import BaseModel, Field, ValidationError
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import Error as DsseError
from securesystemslib.signer import CryptoSigner, SSlibKey

from expunge.core.delivery import signing
from expunge.core.delta_format import KOHYA_FILE

FILE = "certificate.json"
MEDIA_TYPE = "application/vnd.in-toto.certificate+dsse"
STATEMENT = "https://in-toto.io/Statement/v1"
PAYLOAD = "application/vnd.in-toto+json"
PREDICATE = "urn:expunge:certificate:1"
MODEL_DIGEST = "expungeModel1"
"""The digest of a base model: sha256 over the name and the sha256 of each file that is loaded."""
REPORTS = ("report.json", "report.html", "grid.png", "detections.json")
WEIGHTS = (KOHYA_FILE, "fused.zip", "fused.safetensors")  # that a bundle may hold beside the delta
NOT_JUDGES = ("base model", "delta")  # of the digests that a report lists


class BadCertificate(ValueError):
    """A certificate cannot be trusted; the message says why."""


class Resource(BaseModel):
    """A file or a model, by its digest: in-toto's ResourceDescriptor."""

    name: str
    digest: dict[str, str]


class Certificate(BaseModel):
    """What is certified about the subjects: the statement's predicate."""

    kind: str | None = Field(description="The kind of job: erase, hide, combine, evaluate or inspect.")
    job: dict[str, Any] = Field(description="What the service says of the job: its id, which attempt.")
    created_at: str | None = Field(description="When the bundle was sealed (UTC, ISO 8601).")
    manifest: Resource = Field(description="manifest.json, which lists every file of the bundle.")
    reports: list[Resource] = Field(description="What was measured: report.json, its page, its pictures.")
    base_model: Resource | None = Field(
        description=(
            "The model that was changed or judged. Its digest, `expungeModel1`, is the sha256 over the name"
            " and the sha256 of each file that is loaded; `expunge check-model` prints it."
        )
    )
    spec: dict[str, Any] = Field(description="The request with every default filled in.")
    verdict: dict[str, Any] | None = Field(
        description="The report compared with the requested thresholds; null where nothing was judged."
    )
    judges: dict[str, str] = Field(description="Who judged: the sha256 of each judge's weights, by its name.")
    attacks: list[dict[str, Any]] = Field(
        description="The attacks that were run, with their budgets, as the report states them."
    )
    device: str | None = Field(description="What the pictures were drawn on.")
    libraries: dict[str, str] = Field(description="Versions of what the numbers depend on.")


class Statement(BaseModel):
    """in-toto's Statement, v1: what the certificate is about, and what it says."""

    type: str = Field(default=STATEMENT, alias="_type")
    subject: list[Resource] = Field(min_length=1)
    predicateType: str = PREDICATE
    predicate: Certificate


def derive(manifest: Mapping[str, Any], digest: str, report: Mapping[str, Any]) -> Statement:
    """The statement that follows from a manifest, whose file has this sha256, and from its report.

    report: report.json's content; empty where there is none.
    """
    files: Mapping[str, Any] = manifest.get("files") or {}
    model = manifest.get("base_model")
    base = Resource(name=model["id"], digest={MODEL_DIGEST: model["sha256"]}) if model else None
    itself = Resource(name="manifest.json", digest={"sha256": digest})
    judges = {who: found for who, found in (manifest.get("judges") or {}).items() if who not in NOT_JUDGES}
    return Statement(
        subject=subjects(manifest, files) or ([base] if base else [itself]),
        predicate=Certificate(
            kind=manifest.get("kind"),
            job=manifest.get("context") or {},
            created_at=manifest.get("created_at"),
            manifest=itself,
            reports=[of_file(name, files) for name in REPORTS if name in files],
            base_model=base,
            spec=manifest.get("spec") or {},
            verdict=manifest.get("verdict"),
            judges=judges,
            attacks=attacks_of(report),
            device=manifest.get("device"),
            libraries=manifest.get("libraries") or {},
        ),
    )


def subjects(manifest: Mapping[str, Any], files: Mapping[str, Any]) -> list[Resource]:
    """What the verdict is about: the delta, in the bundle or elsewhere, the same in kohya's names, and the
    checkpoints with it fused in.

    Empty where the base model itself was judged.
    """
    delta = manifest.get("delta") or {}
    found = []
    if delta.get("sha256"):
        found.append(Resource(name=delta.get("file", "delta"), digest={"sha256": delta["sha256"]}))
    return found + [of_file(name, files) for name in WEIGHTS if name in files]


def of_file(name: str, files: Mapping[str, Any]) -> Resource:
    return Resource(name=name, digest={"sha256": files[name]["sha256"]})


def attacks_of(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The attacks that a report lists, as it lists them."""
    return [dict(attack) for attack in report.get("attacks") or []]


def sign(key: Ed25519PrivateKey, statement: Statement) -> bytes:
    """The envelope's bytes: one signature, under the same key id as the manifest's."""
    payload = json.dumps(statement.model_dump(mode="json", by_alias=True), ensure_ascii=False).encode()
    envelope = Envelope(payload, PAYLOAD, {})
    envelope.sign(CryptoSigner(key, library_key(key.public_key())))
    return (json.dumps(envelope.to_dict()) + "\n").encode()


def unwrap(envelope: bytes, keys: Sequence[Ed25519PublicKey]) -> Statement:
    """The statement that one of the keys has signed.

    Raises: BadCertificate where it is not such a statement, or where none of the keys has signed it.
    """
    try:
        opened = Envelope.from_dict(json.loads(envelope))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, DsseError) as error:
        raise BadCertificate(
            f"{FILE} is not a DSSE envelope ({type(error).__name__}: {str(error)[:200]})"
        ) from error
    if opened.payload_type != PAYLOAD:
        raise BadCertificate(f"{FILE} holds '{opened.payload_type}', not an in-toto statement")
    try:
        opened.verify([library_key(key) for key in keys], 1)
    except (ValueError, DsseError) as error:
        given = ", ".join(map(signing.key_id, keys))
        raise BadCertificate(
            f"{FILE} is not signed by the key that has to sign it ({given}), or was changed after it was"
            " signed"
        ) from error
    return read(opened.payload)


def read(payload: bytes) -> Statement:
    """The statement in an envelope's payload.

    Raises: BadCertificate where it is another one than ours.
    """
    try:
        found = json.loads(payload)
        kind, about = found["_type"], found["predicateType"]
        if (kind, about) == (STATEMENT, PREDICATE):
            return Statement.model_validate(found)
    except (ValidationError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise BadCertificate(
            f"{FILE} holds no statement that can be read ({type(error).__name__})"
        ) from error
    raise BadCertificate(f"{FILE} is of type '{about}' in '{kind}'; this command knows '{PREDICATE}'")


def contradictions(signed: Statement, derived: Statement) -> list[str]:
    """What a signed statement says otherwise than the bundle that it lies in, in words."""
    found = []
    if signed.predicate.manifest != derived.predicate.manifest:
        return [f"{FILE} belongs to another bundle: the manifest it names is not this one"]
    if signed.subject != derived.subject:
        found.append(f"{FILE} is about other artifacts than the manifest's")
    for name in Certificate.model_fields:
        if getattr(signed.predicate, name) != getattr(derived.predicate, name):
            found.append(f"{FILE} contradicts the manifest or the report: its '{name}' is another")
    return found


def library_key(key: Ed25519PublicKey) -> SSlibKey:
    return SSlibKey.from_crypto(key, keyid=signing.key_id(key))
