"""`expunge verify`: is this bundle what was signed, and what does its certificate say? Digests, sizes,
missing and extra files, signature, certificate, finite tensors. Needs no torch, but for --rerun.
"""

import json
import sys
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

import httpx
import numpy as np
import typer
from cryptography.exceptions import UnsupportedAlgorithm
from pydantic import BaseModel, ValidationError
from safetensors import SafetensorError, deserialize

from expunge import extras
from expunge.core.delivery import certificate, certificate_words, signing
from expunge.core.delivery.certificate import BadCertificate, Statement
from expunge.core.delivery.manifest import FORMAT, MANIFEST, SEALS, SIGNATURE, derive_statement, sha256
from expunge.core.errors import CoreError
from expunge.core.progress import show

SCIENCE = ("diffusers", "open_clip", "timm", "torch", "transformers")
OUTCOMES = {
    "exact": "exactly as reported",
    "within": "within the 95 % interval",
    "not reproduced": "not reproduced:",
}
FLOATS = {"F64": np.float64, "F32": np.float32, "F16": np.float16}


class Result(BaseModel):
    """What was found. `signature` is trusted (the key given), self-consistent (a key that nobody vouched
    for), invalid or missing. `certificate` is the same of the certificate; it is missing, without a problem,
    where the bundle is older than certificates. What it certifies, and what not, is said in words.
    """

    ok: bool
    bundle: str
    signature: str
    certificate: str = "missing"
    key_id: str | None = None
    files: int = 0
    problems: list[str] = []
    notes: list[str] = []
    certifies: list[str] = []
    does_not_certify: list[str] = []
    rerun: dict[str, Any] | None = None


def verify(bundle: str | Path, public_key: bytes | None = None) -> Result:
    """Check a bundle's folder; `public_key` are the signer's keys, as signing.load_publics reads them."""
    # Is there a manifest?
    bundle = Path(bundle)
    if not (bundle / MANIFEST).is_file():
        why = (
            f"{MANIFEST} is missing: this is not a bundle, or not all of it"
            if bundle.is_dir()
            else "there is no such folder"
        )
        return Result(ok=False, bundle=str(bundle), signature="missing", problems=[why])

    # Who signed it, and does it say what lies here? Does the certificate say the same?
    payload = (bundle / MANIFEST).read_bytes()
    state, key, problems, notes = check_signature(bundle, payload, public_key)
    files: dict[str, Any] = {}
    certified, statement = "missing", None
    try:
        manifest = json.loads(payload)
        files = manifest["files"]
        if manifest["format"] != FORMAT:
            problems.append(f"{MANIFEST} has format '{manifest['format']}', this command knows '{FORMAT}'")
        problems += check_files(bundle, files, manifest)
        notes += note_withheld(bundle, files)
        certified, statement, more, said = check_certificate(bundle, payload, manifest, public_key)
        problems, notes = problems + more, notes + said
    except (ValueError, KeyError, TypeError, AttributeError, OSError, RecursionError) as e:
        problems.append(f"{MANIFEST} cannot be read ({type(e).__name__}: {e})")

    # The result; in words only where all is well.
    result = Result(
        ok=not problems,
        bundle=str(bundle),
        signature=state,
        certificate=certified,
        key_id=key,
        files=len(files),
        problems=problems,
        notes=notes,
    )
    if result.ok and statement is not None:
        result.certifies = certificate_words.certified(statement, len(files), key)
        result.does_not_certify = certificate_words.not_certified(statement, state)
    return result


def check_signature(
    bundle: Path, payload: bytes, pinned: bytes | None
) -> tuple[str, str | None, list[str], list[str]]:
    """Who signed the manifest: (state, key id, problems, notes).

    payload: the manifest's bytes; pinned: the keys that the caller trusts, PEM.
    """
    file = bundle / SIGNATURE
    if not file.is_file():
        problem = f"{SIGNATURE} is missing: the bundle is not signed, so anyone may have changed it"
        return "missing", None, [problem], []

    # The signature must be one, by the key that it brings.
    try:
        signature = json.loads(file.read_bytes())
        own = signing.load_public(signature["public_key"])
    except (ValueError, KeyError, TypeError, RecursionError, UnsupportedAlgorithm) as e:
        return "invalid", None, [f"{SIGNATURE} cannot be read ({type(e).__name__}: {e})"], []
    identity = signing.key_id(own)
    if not signing.is_signed_by(own, signature, payload):
        problem = f"the signature does not match {MANIFEST}: the manifest was changed after it was signed"
        return "invalid", identity, [problem], []

    # Whose key that is, only the caller can know.
    if pinned is None:
        note = (
            f"signed by key {identity}, which nobody has vouched for: give the signer's keys with"
            " --public-key FILE, or the service's with --url"
        )
        return "self-consistent", identity, [], [note]
    expected = signing.load_publics(pinned)
    if not any(signing.is_signed_by(key, signature, payload) for key in expected):
        given = ", ".join(map(signing.key_id, expected))
        return "invalid", identity, [f"signed by key {identity}, not by the key you gave ({given})"], []
    return "trusted", identity, [], []


def check_certificate(
    bundle: Path, payload: bytes, manifest: dict[str, Any], pinned: bytes | None
) -> tuple[str, Statement | None, list[str], list[str]]:
    """Whether the certificate is the signer's, and says what the bundle says: (state, the statement,
    problems, notes).

    payload: the manifest's bytes, and what they hold; pinned: the keys that the caller trusts, PEM.
    """
    # A bundle that was sealed with one has to have it; older ones never had any.
    if "certificate" not in manifest:
        older = (
            f"no {certificate.FILE}: the bundle is older than certificates; its signed manifest stands alone"
        )
        return "missing", None, [], [older] if "signed_by" in manifest else []
    file = bundle / certificate.FILE
    if file.is_symlink() or not file.is_file():
        return "missing", None, [f"{certificate.FILE} is missing: the bundle was sealed with one"], []

    # The keys that may have signed it: those that the caller trusts, else the manifest's own.
    try:
        if pinned is not None:
            state, keys = "trusted", signing.load_publics(pinned)
        else:
            signature = json.loads((bundle / SIGNATURE).read_bytes())
            state, keys = "self-consistent", [signing.load_public(signature["public_key"])]
    except (OSError, ValueError, KeyError, TypeError, RecursionError, UnsupportedAlgorithm):
        return "invalid", None, [f"{certificate.FILE} cannot be checked: {SIGNATURE} names no key"], []

    # What it says has to follow from the manifest and the report.
    try:
        signed = certificate.unwrap(file.read_bytes(), keys)
        problems = certificate.contradictions(signed, derive_statement(bundle, payload))
    except BadCertificate as error:
        return "invalid", None, [str(error)], []
    except (ValidationError, AttributeError, TypeError, KeyError) as error:
        return "invalid", None, [f"{MANIFEST} says nothing to certify ({type(error).__name__})"], []
    return ("invalid", None, problems, []) if problems else (state, signed, [], [])


def check_files(bundle: Path, files: dict[str, Any], manifest: dict[str, Any]) -> list[str]:
    """What is wrong with the files that the manifest lists, in words."""
    problems = []
    for name, entry in sorted(files.items()):
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts:
            problems.append(f"{name}: the manifest names a file outside the bundle")
            continue
        file = bundle / name
        if entry.get("withheld") is True and not file.exists() and not file.is_symlink():
            continue
        if file.is_symlink() or not file.is_file():
            problems.append(f"{name}: missing" if not file.exists() else f"{name}: not a plain file")
        elif file.stat().st_size != entry["size"]:
            problems.append(f"{name}: has {file.stat().st_size:,} bytes, the manifest says {entry['size']:,}")
        elif (digest := sha256(file)) != entry["sha256"]:
            problems.append(f"{name}: changed: sha256 is {digest}, the manifest says {entry['sha256']}")
        elif name.endswith(".safetensors"):
            problems += [f"{name}: {p}" for p in check_tensors(file)]
    sealed = set(SEALS) if "certificate" in manifest else {MANIFEST, SIGNATURE}
    present = {f.relative_to(bundle).as_posix() for f in bundle.rglob("*") if f.is_file() or f.is_symlink()}
    return problems + [f"{name}: not in the manifest" for name in sorted(present - set(files) - sealed)]


def note_withheld(bundle: Path, files: dict[str, Any]) -> list[str]:
    """What the bundle lacks because its verdict did not pass."""
    names = [name for name, entry in files.items() if entry.get("withheld") and not (bundle / name).exists()]
    if not names:
        return []
    return [f"withheld, as the verdict did not pass: {', '.join(sorted(names))}"]


def check_tensors(file: Path) -> list[str]:
    """Open a safetensors file and look for NaN and infinity."""
    try:
        tensors = deserialize(file.read_bytes())  # type: ignore[no-untyped-call]
    except SafetensorError as e:
        return [f"not a safetensors file ({e})"]
    return [
        f"tensor '{name}' holds NaN or infinity" for name, t in tensors if not finite(t["dtype"], t["data"])
    ]


def finite(dtype: str, data: bytes) -> bool:
    if dtype == "BF16":
        return not ((np.frombuffer(data, np.uint16) & 0x7F80) == 0x7F80).any()
    return dtype not in FLOATS or bool(np.isfinite(np.frombuffer(data, FLOATS[dtype])).all())


def measure_anew(result: Result, metric: str, concept: str | None, **given: Any) -> None:
    """Note in the result what a figure is when it is measured anew, and the problem where it is another."""
    from expunge.core.delivery.rerun import Given, rerun  # here: it needs torch

    try:
        found = rerun(Path(result.bundle), metric, concept, Given(**given), show)
    except CoreError as error:
        result.problems.append(f"{metric} cannot be measured anew: {error.message}")
    else:
        result.rerun = found.model_dump(mode="json")
        if not found.reproduced:
            result.problems.append(f"{metric} is not what the report says")
    result.ok = not result.problems


def rerun_lines(found: dict[str, Any]) -> list[str]:
    """Each figure's outcome, and what may explain a difference."""
    lines = list[str]()
    for each in found["figures"]:
        whose = f" of '{each['concept']}'" if each["concept"] else ""
        whose += f" under {each['attack']}" if each["attack"] else ""
        reported = f"{each['metric']}{whose}: {each['reported']:.4g} there (n {each['n']})"
        measured = "nothing" if each["measured"] is None else f"{each['measured']:.4g}"
        said = f"{OUTCOMES[each['outcome']]} {each['reason']}".strip()
        lines.append(f"{reported}, {measured} here: {said}")
    return lines + [f"differs: {line}" for line in found["differs"]]


def print_lines(title: str, lines: list[str]) -> None:
    """A heading and its lines; nothing where there are none."""
    if lines:
        typer.echo("\n".join([f"\n{title}", *(f"  - {line}" for line in lines)]))


def fetch(url: str) -> bytes:
    """The service's own answer about its keys; typer.BadParameter when there is none."""
    try:
        answer = httpx.get(f"{url.rstrip('/')}/signing-keys", timeout=20).raise_for_status()
        signing.load_publics(answer.content)
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, UnsupportedAlgorithm) as e:
        raise typer.BadParameter(f"no signing keys are to be had there ({e})", param_hint="--url") from e
    return answer.content


def main(
    bundle: Annotated[Path, typer.Argument(help="The bundle's folder.")],
    public_key: Annotated[
        Path | None,
        typer.Option(
            help=(
                "The signer's keys, got from the signer, not from the bundle: PEM, or what GET /signing-keys"
                " answers."
            )
        ),
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(help="Ask the service at this URL for its keys: whoever answers there vouches."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    rerun: Annotated[
        str | None,
        typer.Option(
            metavar="METRIC", help="Measure this figure of the report anew: esr1, psr1, clip_score …"
        ),
    ] = None,
    concept: Annotated[
        str | None, typer.Option(metavar="NAME", help="With --rerun: of this concept alone.")
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(
            metavar="SOURCE", help="With --rerun: where the base model lies, as EXPUNGE_MODELS names it."
        ),
    ] = None,
    delta: Annotated[
        Path | None, typer.Option(help="With --rerun: the delta, where the bundle holds its sha256 alone.")
    ] = None,
    recovery_key: Annotated[
        Path | None, typer.Option(help="With --rerun: a hide job's recovery key, opened.")
    ] = None,
    judge: Annotated[
        Path | None, typer.Option(help="With --rerun: the uploaded judge, where the job named one.")
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="With --rerun: the prompt set, where the job was judged on one.")
    ] = None,
) -> None:
    """Check a downloaded bundle: every digest, the signature, the certificate, the tensors; with --rerun, a
    figure of its report too.

    Exit code 0 when all is well, else 1.
    """
    # What is asked
    given = {
        "base": base,
        "delta": delta,
        "recovery_key": recovery_key,
        "judge": judge,
        "prompts": prompts,
    }
    if rerun is None and any((concept, *given.values())):
        raise typer.BadParameter("it goes with --rerun METRIC", param_hint="--concept, --base, --delta")
    if rerun is not None:
        extras.require("'expunge verify --rerun'", "science", *SCIENCE)
    try:
        pinned = public_key.read_bytes() if public_key else None
        if pinned is not None:
            signing.load_publics(pinned)
    except (OSError, ValueError) as e:
        raise typer.BadParameter(f"no Ed25519 public key in PEM form ({e})", param_hint="--public-key") from e
    if url is not None:
        if pinned is not None:
            raise typer.BadParameter(
                "give the keys or the service that has them, not both", param_hint="--url"
            )
        pinned = fetch(url)

    # What is found; a figure of a bundle that was changed proves nothing
    result = verify(bundle, pinned)
    if rerun is not None and result.ok:
        measure_anew(result, rerun, concept, **given)
    elif rerun is not None:
        result.notes.append(f"{rerun} was not measured anew: the bundle is not as it was signed")
    if as_json:
        typer.echo(result.model_dump_json(indent=1))
    else:
        for problem in result.problems:
            typer.secho(f"✗ {problem}", fg="red", err=True)
        for note in result.notes:
            typer.secho(f"! {note}", fg="yellow", err=True)
        if result.ok:
            typer.secho(
                f"✓ {result.files} files as in the manifest; signature {result.signature}, key"
                f" {result.key_id}",
                fg="green",
            )
            print_lines("It certifies:", result.certifies)
            print_lines("It does not certify:", result.does_not_certify)
        if result.rerun is not None:
            print_lines(f"Measured anew, {rerun}:", rerun_lines(result.rerun))
    sys.exit(0 if result.ok else 1)


if __name__ == "__main__":
    typer.run(main)
