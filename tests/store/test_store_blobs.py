"""Artifact bytes."""

import hashlib
import uuid
from datetime import timedelta
from pathlib import Path

import pytest

from store.blobs import CHUNK, Blobs, output_key, upload_key
from store.errors import BlobExists, CorruptBlob, NotFound

CONTENT = bytes(range(256)) * (CHUNK // 256) + b"the end"


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    return Blobs((tmp_path / "with space").as_uri())


def test_what_goes_in_comes_out_with_its_sha256(blobs, tmp_path):
    file = tmp_path / "f"
    file.write_bytes(CONTENT)
    want = (len(CONTENT), hashlib.sha256(CONTENT).hexdigest())
    with file.open("rb") as opened:
        for key, source in (("a/path", file), ("a/bytes", CONTENT), ("a/stream", opened)):
            assert blobs.put(key, source) == want
            assert b"".join(blobs.read(key)) == CONTENT
            assert blobs.size(key) == len(CONTENT)


@pytest.mark.parametrize(("start", "end"), [(0, 1), (5, 5), (CHUNK - 1, CHUNK + 2), (CHUNK, None), (3, len(CONTENT))])
def test_ranges(blobs, start, end):
    blobs.put("k", CONTENT)
    assert b"".join(blobs.read("k", start, end)) == CONTENT[start:end]


def test_stored_bytes_are_never_overwritten(blobs):
    blobs.put("k", b"first")
    with pytest.raises(BlobExists):
        blobs.put("k", b"second")
    assert b"".join(blobs.read("k")) == b"first"


def test_flipped_bit_is_noticed(blobs, tmp_path):
    _, sha256 = blobs.put("k", CONTENT)
    stored = blobs.folder / "k"
    stored.write_bytes(CONTENT[:-1] + b"x")
    with pytest.raises(CorruptBlob):
        blobs.read_all("k", sha256)
    with pytest.raises(CorruptBlob):
        blobs.download("k", tmp_path / "out", sha256)
    assert not (tmp_path / "out").exists()
    assert blobs.hash("k")[1] != sha256


def test_missing_object_is_not_found_and_may_be_deleted_twice(blobs):
    blobs.put("k", b"x")
    blobs.delete(["k", "k"])
    with pytest.raises(NotFound):
        list(blobs.read("k"))


def test_only_old_objects_are_listed_for_the_sweep(blobs):
    blobs.put("a/b", b"x")
    assert list(blobs.older_than(timedelta(hours=1))) == []
    assert list(blobs.older_than(timedelta(seconds=-5))) == ["a/b"]


def test_keys_are_made_of_ids_alone_and_never_meet():
    tenant, job = uuid.uuid4(), uuid.uuid4()
    assert output_key(tenant, job, 1, 2).startswith(f"{tenant}/{job}/1-2/")
    assert output_key(tenant, job, 1, 2) != output_key(tenant, job, 1, 2)
    assert upload_key(tenant).startswith(f"{tenant}/uploads/")


def test_unknown_scheme_names_the_remedy():
    with pytest.raises(ValueError, match="file:///directory or s3://"):
        Blobs("ftp://host/x")
