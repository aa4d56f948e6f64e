"""The certificate: what it binds, that others can read it, and that nothing of the bundle can be changed
beneath it.
"""

import base64
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import jsonschema_rs
import numpy as np
import pytest
from google.protobuf import json_format
from in_toto_attestation.v1 import statement_pb2
from in_toto_attestation.v1.statement import Statement as ReferenceStatement
from safetensors.numpy import save_file

from expunge.core import json_schemas
from expunge.core.delivery import certificate, manifest, signing
from expunge.core.delivery.verify import verify

LORA = "pytorch_lora_weights.safetensors"
FACTS = {
    "kind": "erase",
    "context": {"job_id": "1", "attempt": 1},
    "base_model": {"id": "emoji", "sha256": "ab" * 32},
    "spec": {"concepts": [{"name": "church"}], "seed": 0},
    "judges": {"base model": "ab" * 32, "delta": "cd" * 32, "concept (resnet)": "ef" * 32},
    "verdict": {"passed": False, "checks": []},
}
REPORT = {"metrics": [], "attacks": [{"name": "inversion", "steps": 300, "restarts": 3}]}


def sealed(folder: Path, key: Path, passed: bool = False) -> Path:
    """A small bundle of an erase job, sealed with the key."""
    folder.mkdir()
    save_file({"w": np.ones(3, np.float32)}, folder / LORA)
    (folder / "report.json").write_text(json.dumps(REPORT | {"verdict": {"passed": passed}}))
    delta = {"file": LORA, "sha256": manifest.sha256(folder / LORA)}
    manifest.seal(folder, FACTS | {"delta": delta, "verdict": {"passed": passed, "checks": []}}, key)
    return folder


@pytest.fixture
def key(tmp_path: Path) -> Path:
    return tmp_path / "key.pem"


@pytest.fixture
def ours(tmp_path: Path, key: Path) -> Path:
    return sealed(tmp_path / "ours", key)


def public(key: Path) -> bytes:
    return key.with_name(key.name + ".pub").read_bytes()


def payload_of(folder: Path) -> dict:
    envelope = json.loads((folder / "certificate.json").read_text())
    return json.loads(base64.b64decode(envelope["payload"]))


def test_it_binds_artifact_report_base_model_request_judges_attacks_and_libraries(ours: Path):
    said, stated = payload_of(ours), json.loads((ours / "manifest.json").read_text())
    assert said["subject"] == [{"name": LORA, "digest": {"sha256": manifest.sha256(ours / LORA)}}]
    predicate = said["predicate"]
    assert predicate["manifest"]["digest"] == {"sha256": manifest.sha256(ours / "manifest.json")}
    assert predicate["reports"] == [
        {"name": "report.json", "digest": {"sha256": manifest.sha256(ours / "report.json")}}
    ]
    assert predicate["base_model"] == {"name": "emoji", "digest": {"expungeModel1": "ab" * 32}}
    assert predicate["judges"] == {"concept (resnet)": "ef" * 32}
    assert predicate["attacks"] == REPORT["attacks"]
    for name in ("kind", "spec", "verdict", "libraries", "created_at"):
        assert predicate[name] == stated[name]
    assert predicate["libraries"]["torch"]


def test_others_can_read_it_and_check_its_signature_without_us(ours: Path, key: Path):
    envelope = json.loads((ours / "certificate.json").read_text())
    payload = base64.b64decode(envelope["payload"])
    type_ = envelope["payloadType"].encode()
    signed = b"DSSEv1 %d %b %d %b" % (len(type_), type_, len(payload), payload)
    (signature,) = envelope["signatures"]
    own = signing.load_or_create(key).public_key()
    own.verify(base64.b64decode(signature["sig"]), signed)  # raises where it is another's
    assert signature["keyid"] == json.loads((ours / "manifest.json").read_text())["signed_by"]
    statement = json_format.Parse(payload, statement_pb2.Statement())
    ReferenceStatement.copy_from_pb(statement).validate()
    assert statement.predicate_type == "urn:expunge:certificate:1"


def test_the_predicate_is_what_its_schema_says(ours: Path):
    schema = jsonschema_rs.validator_for(json_schemas.read("certificate-1"))
    predicate = payload_of(ours)["predicate"]
    schema.validate(predicate)
    assert not schema.is_valid({name: value for name, value in predicate.items() if name != "verdict"})
    assert not schema.is_valid(predicate | {"subject": 1, "judges": [1]})


def test_what_it_certifies_and_what_not_is_said_in_words(ours: Path, key: Path):
    found = verify(ours, public(key))
    assert (found.ok, found.certificate, found.problems, found.notes) == (True, "trusted", [], [])
    said, unsaid = " ".join(found.certifies), " ".join(found.does_not_certify)
    assert "to erase 'church' from 'emoji'" in said
    assert "The verdict was: failed" in said
    assert "attacked by inversion" in said
    assert "takes the delta off" in unsaid
    assert "nobody vouched" not in unsaid
    assert "nobody vouched" in " ".join(verify(ours).does_not_certify)


def edit(name: str, *place: str, value: object) -> Callable[[Path], None]:
    """Set something in a JSON file of the bundle."""

    def change(folder: Path) -> None:
        content = json.loads((folder / name).read_text())
        inner = content
        for part in place[:-1]:
            inner = inner[part]
        inner[place[-1]] = value
        (folder / name).write_text(json.dumps(content))

    return change


def edit_certificate(*place: str, value: object) -> Callable[[Path], None]:
    """Set something in the certificate's statement, which keeps its signature."""

    def change(folder: Path) -> None:
        said = payload_of(folder)
        inner = said
        for part in place[:-1]:
            inner = inner[part]
        inner[place[-1]] = value
        coded = base64.b64encode(json.dumps(said).encode()).decode()
        edit("certificate.json", "payload", value=coded)(folder)

    return change


def change_artifact(folder: Path) -> None:
    save_file({"w": np.zeros(3, np.float32)}, folder / LORA)


def swap_certificates(folder: Path) -> None:
    shutil.copy(folder.parent / "passed" / "certificate.json", folder / "certificate.json")


def swap_verdict_with_its_seals(folder: Path) -> None:
    """Everything that is signed, of a bundle that passed, beside the artifact and report that did not."""
    for name in manifest.SEALS:
        shutil.copy(folder.parent / "passed" / name, folder / name)


def strip(folder: Path) -> None:
    (folder / "certificate.json").unlink()


def strip_and_say_there_was_none(folder: Path) -> None:
    strip(folder)
    content = json.loads((folder / "manifest.json").read_text())
    del content["certificate"]
    (folder / "manifest.json").write_text(json.dumps(content))


def sign_by_another(folder: Path) -> None:
    forger = signing.load_or_create(folder.parent / "forger.pem")
    statement = manifest.derive_statement(folder, (folder / "manifest.json").read_bytes())
    (folder / "certificate.json").write_bytes(certificate.sign(forger, statement))


def contradict(folder: Path) -> None:
    """The signer's own certificate, of another verdict than the signer's manifest."""
    own = signing.load_or_create(folder.parent / "key.pem")
    statement = manifest.derive_statement(folder, (folder / "manifest.json").read_bytes())
    statement.predicate.verdict = {"passed": True, "checks": []}
    (folder / "certificate.json").write_bytes(certificate.sign(own, statement))


@pytest.mark.parametrize(
    ("tamper", "told"),
    [
        (edit("report.json", "verdict", value={"passed": True}), "report.json: "),
        (change_artifact, f"{LORA}: changed: sha256 is "),
        (edit("manifest.json", "spec", "seed", value=1), "the manifest was changed after it was signed"),
        (edit("manifest.json", "verdict", "passed", value=True), "the manifest was changed"),
        (
            edit_certificate("predicate", "verdict", "passed", value=True),
            "or was changed after it was signed",
        ),
        (edit_certificate("predicate", "spec", "seed", value=1), "or was changed after it was signed"),
        (edit_certificate("subject", value=[{"name": LORA, "digest": {"sha256": "0"}}]), "or was changed"),
        (swap_certificates, "certificate.json belongs to another bundle"),
        (swap_verdict_with_its_seals, "report.json: "),
        (strip, "certificate.json is missing: the bundle was sealed with one"),
        (strip_and_say_there_was_none, "the manifest was changed after it was signed"),
        (sign_by_another, "is not signed by the key that has to sign it"),
        (contradict, "contradicts the manifest or the report: its 'verdict' is another"),
        (edit("certificate.json", "payloadType", value="text/plain"), "not an in-toto statement"),
        (edit("certificate.json", "signatures", value=[]), "is not signed by the key"),
        (edit("certificate.json", "signatures", value=7), "is not a DSSE envelope"),
    ],
)
@pytest.mark.parametrize("pinned", [True, False])
def test_nothing_can_be_changed_beneath_it(
    ours: Path, key: Path, tmp_path: Path, tamper: Callable[[Path], None], told: str, pinned: bool
):
    sealed(tmp_path / "passed", key, passed=True)
    assert verify(ours, public(key) if pinned else None).ok
    tamper(ours)
    found = verify(ours, public(key) if pinned else None)
    assert not found.ok
    assert any(told in problem for problem in found.problems), found.problems
    assert (found.certifies, found.does_not_certify) == ([], [])


def test_a_bundle_of_before_certificates_stays_valid_and_says_so(ours: Path, key: Path):
    strip(ours)
    content = json.loads((ours / "manifest.json").read_text())
    del content["certificate"]
    payload = json.dumps(content).encode()
    (ours / "manifest.json").write_bytes(payload)
    signature = signing.sign(signing.load_or_create(key), payload)
    (ours / "manifest.sig").write_text(json.dumps(signature))
    found = verify(ours, public(key))
    assert (found.ok, found.certificate) == (True, "missing")
    assert "older than certificates" in found.notes[0]
    (ours / "certificate.json").write_text("{}")  # it may not be smuggled in afterwards
    assert verify(ours, public(key)).problems == ["certificate.json: not in the manifest"]


def test_a_real_jobs_certificate_is_about_its_delta_and_the_fused_checkpoint(bundle: Path, workplace: Path):
    said = payload_of(bundle)
    assert [each["name"] for each in said["subject"]] == [
        LORA,
        "lora_kohya.safetensors",
        "fused.zip",
        "fused.safetensors",
    ]
    names = [each["name"] for each in said["predicate"]["reports"]]
    assert names == ["report.json", "report.html", "grid.png", "detections.json"]
    judges = " ".join(said["predicate"]["judges"])
    assert all(name in judges for name in ("concept", "clip", "nudenet"))
    assert said["predicate"]["verdict"]["artifact_sha256"] == manifest.sha256(bundle / LORA)
    assert verify(bundle, public(workplace / "key.pem")).certificate == "trusted"
