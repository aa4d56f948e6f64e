"""`expunge verify` says what is wrong with a bundle, and starts without torch."""

import json
import shutil
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from expunge.core.delivery import signing
from expunge.core.delivery.manifest import seal
from expunge.core.delivery.verify import finite, verify


@pytest.fixture
def copy(bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle, tmp_path / "copy"))


def edit_manifest(folder: Path, **changes: object) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | changes))


def test_a_whole_bundle_is_trusted_with_the_signers_key(bundle: Path, workplace: Path):
    result = verify(bundle, (workplace / "key.pem.pub").read_bytes())
    assert (result.ok, result.signature, result.problems, result.notes) == (True, "trusted", [], [])
    assert result.files == 9


def test_without_a_key_it_is_only_self_consistent_and_says_so(bundle: Path):
    result = verify(bundle)
    assert (result.ok, result.signature) == (True, "self-consistent")
    assert "nobody has vouched for" in result.notes[0]


def test_another_signers_key_is_refused(bundle: Path, tmp_path: Path):
    signing.load_or_create(tmp_path / "other.pem")
    result = verify(bundle, (tmp_path / "other.pem.pub").read_bytes())
    assert (result.ok, result.signature) == (False, "invalid")
    assert "not by the key you gave" in result.problems[0]


def test_a_changed_byte_is_found(copy: Path):
    file = copy / "pytorch_lora_weights.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    (problem,) = verify(copy).problems
    assert problem.startswith("pytorch_lora_weights.safetensors: changed: sha256 is ")


def test_a_shortened_a_missing_and_an_extra_file_are_found(copy: Path):
    (copy / "report.html").write_text("short")
    (copy / "grid.png").unlink()
    (copy / "extra.bin").write_bytes(b"x")
    problems = verify(copy).problems
    assert any(p.startswith("report.html: has 5 bytes") for p in problems)
    assert "grid.png: missing" in problems
    assert "extra.bin: not in the manifest" in problems
    assert len(problems) == 3


def test_a_rewritten_manifest_breaks_the_signature(copy: Path):
    edit_manifest(copy, verdict={"passed": True, "checks": []})
    result = verify(copy)
    assert (result.ok, result.signature) == (False, "invalid")
    assert "changed after it was signed" in result.problems[0]


def test_a_bundle_signed_anew_by_someone_else_is_refused_when_the_key_is_pinned(
    copy: Path, workplace: Path, tmp_path: Path
):
    (copy / "report.json").write_text("{}")
    seal(copy, {}, tmp_path / "forger.pem")
    assert verify(copy).ok  # consistent in itself: that is all that can be said without a key
    assert not verify(copy, (workplace / "key.pem.pub").read_bytes()).ok


def test_an_unsigned_bundle_is_not_all_right(copy: Path):
    (copy / "manifest.sig").unlink()
    result = verify(copy)
    assert (result.ok, result.signature) == (False, "missing")
    assert "not signed" in result.problems[0]


def test_a_manifest_may_not_reach_outside_the_bundle(copy: Path, tmp_path: Path):
    (tmp_path / "secret").write_bytes(b"x")
    edit_manifest(
        copy, files={"../secret": {"sha256": "0", "size": 1}, "/etc/hostname": {"sha256": "0", "size": 1}}
    )
    assert sum("outside the bundle" in p for p in verify(copy).problems) == 2


def test_a_link_is_not_a_file(copy: Path):
    (copy / "grid.png").rename(copy.parent / "grid.png")
    (copy / "grid.png").symlink_to(copy.parent / "grid.png")
    assert verify(copy).problems == ["grid.png: not a plain file"]


@pytest.mark.parametrize(
    "content", ["", "[]", '{"format": 1}', '{"format": "expunge-bundle/1", "files": {"a": 1}}', "\xff"]
)
def test_a_manifest_that_is_none_is_a_problem_not_a_crash(copy: Path, content: str):
    (copy / "manifest.json").write_text(content, encoding="latin-1")
    assert not verify(copy).ok


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"public_key": "x", "signature": "y"}'])
def test_a_signature_that_is_none_is_a_problem_not_a_crash(copy: Path, content: str):
    (copy / "manifest.sig").write_text(content)
    result = verify(copy)
    assert (result.ok, result.signature) == (False, "invalid")


def test_tensors_that_are_not_finite_are_found_even_when_signed(tmp_path: Path):
    folder = tmp_path / "nan"
    folder.mkdir()
    save_file(
        {"good": np.ones(3, np.float32), "bad": np.array([1, np.nan], np.float16)},
        folder / "pytorch_lora_weights.safetensors",
    )
    (folder / "other.safetensors").write_bytes(b"not tensors")
    seal(folder, {}, tmp_path / "key.pem")
    problems = verify(folder).problems
    assert "pytorch_lora_weights.safetensors: tensor 'bad' holds NaN or infinity" in problems
    assert any(p.startswith("other.safetensors: not a safetensors file") for p in problems)
    assert len(problems) == 2


def test_bfloat16_is_checked_too():
    assert finite("BF16", np.array([0x3F80], np.uint16).tobytes())
    assert not finite("BF16", np.array([0x3F80, 0x7FC0], np.uint16).tobytes())
    assert finite("I64", np.array([1]).tobytes())


def test_the_private_key_is_made_once_and_only_its_owner_may_read_it(tmp_path: Path):
    path = tmp_path / "keys" / "signing.pem"
    with ThreadPoolExecutor(8) as pool:
        keys = list(
            pool.map(lambda _: signing.public_pem(signing.load_or_create(path).public_key()), range(8))
        )
    assert len(set(keys)) == 1
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.with_name("signing.pem.pub").read_text() == keys[0]
    assert sorted(f.name for f in path.parent.iterdir()) == ["signing.pem", "signing.pem.pub"]


def run(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "expunge.core.delivery.verify", *args],
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_command_answers_by_exit_code_words_and_json(bundle: Path, copy: Path, workplace: Path):
    good = run(str(bundle), "--public-key", str(workplace / "key.pem.pub"))
    assert good.returncode == 0
    assert "9 files as in the manifest; signature trusted" in good.stdout
    (copy / "grid.png").unlink()
    bad = run(str(copy))
    assert bad.returncode == 1
    assert "grid.png: missing" in bad.stderr
    as_json = run(str(copy), "--json")
    assert as_json.returncode == 1
    assert json.loads(as_json.stdout)["problems"] == ["grid.png: missing"]
    assert run(str(bundle), "--public-key", str(bundle / "report.json")).returncode == 2
    assert run(str(bundle / "nothing")).returncode == 1


def test_the_command_does_not_need_torch():
    code = (
        "import sys, expunge.core.delivery.verify; sys.exit(bool({'torch', 'diffusers', 'transformers'} &"
        " set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
