"""Artifact bytes."""

import filecmp
import hashlib
import resource
import subprocess
import sys
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
import obstore
import pytest
from obstore.exceptions import BaseError

from expunge.store.blobs import CHUNK, PART, PARTS, Blobs, output_key, upload_key
from expunge.store.errors import BlobExists, CorruptBlob, NotFound
from tests.support.stored import keys_older_than

CONTENT = bytes(range(256)) * (CHUNK // 256) + b"the end"


@pytest.fixture(params=["directory", "s3"])
def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> Blobs:
    return Blobs(
        request.getfixturevalue("bucket") if request.param == "s3" else (tmp_path / "with space").as_uri()
    )


def overwrite(blobs: Blobs, key: str, content: bytes) -> None:
    """Behind the store's back."""
    if blobs.folder is not None:
        (blobs.folder / key).write_bytes(content)
    else:
        obstore.put(blobs.store, key, content)


def test_what_goes_in_comes_out_with_its_sha256(blobs, tmp_path):
    file = tmp_path / "f"
    file.write_bytes(CONTENT)
    want = (len(CONTENT), hashlib.sha256(CONTENT).hexdigest())
    with file.open("rb") as opened:
        for key, source in (("a/path", file), ("a/bytes", CONTENT), ("a/stream", opened)):
            assert blobs.put(key, source) == want
            assert b"".join(blobs.read(key)) == CONTENT
            assert blobs.size(key) == len(CONTENT)


@pytest.mark.parametrize(
    ("start", "end"), [(0, 1), (5, 5), (CHUNK - 1, CHUNK + 2), (CHUNK, None), (3, len(CONTENT))]
)
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
    overwrite(blobs, "k", CONTENT[:-1] + b"x")
    with pytest.raises(CorruptBlob):
        blobs.read_all("k", sha256)
    with pytest.raises(CorruptBlob):
        blobs.download("k", tmp_path / "out", sha256)
    assert not (tmp_path / "out").exists()
    assert blobs.hash("k")[1] != sha256


def test_missing_object_is_not_found_and_may_be_deleted_twice(blobs):
    blobs.put("k", b"x")
    blobs.delete(["k", "k"])
    for look in (
        lambda: list(blobs.read("k")),
        lambda: blobs.size("k"),
        lambda: blobs.stamp("k"),
        lambda: blobs.hash("k"),
    ):
        with pytest.raises(NotFound):
            look()


def test_of_eight_writers_of_one_key_one_wins(blobs):
    def write(n: int) -> int | None:
        try:
            blobs.put("k", bytes([n]) * 1000)
        except BlobExists:
            return None
        return n

    with ThreadPoolExecutor(8) as pool:
        (winner,) = [n for n in pool.map(write, range(8)) if n is not None]
    assert b"".join(blobs.read("k")) == bytes([winner]) * 1000


def test_a_stamp_changes_with_the_bytes(blobs):
    blobs.put("k", b"one")
    before = blobs.stamp("k")
    assert blobs.stamp("k") == before
    overwrite(blobs, "k", b"two")
    assert blobs.stamp("k") != before


def test_a_link_gives_one_object_by_get_until_it_expires(bucket):
    blobs = Blobs(bucket)
    blobs.put("a/k", CONTENT, name="naïve/report.html")
    blobs.put("a/other", b"other")
    url = blobs.presign("a/k", timedelta(minutes=15))
    answer = httpx.get(url)
    assert answer.content == CONTENT
    assert (
        answer.headers["content-disposition"]
        == "attachment; filename=\"report.html\"; filename*=UTF-8''report.html"
    )
    assert httpx.get(url, headers={"Range": "bytes=3-9"}).content == CONTENT[3:10]
    query = parse_qs(urlsplit(url).query)
    assert query["X-Amz-Expires"] == ["900"]
    assert urlsplit(url).path.endswith("/a/k")


def test_a_directory_has_no_links(tmp_path):
    assert Blobs(tmp_path.as_uri()).presign("k", timedelta(minutes=1)) is None


def test_a_full_disk_leaves_nothing_behind(tmp_path):
    blobs, limit = Blobs(tmp_path.as_uri()), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (CHUNK // 2, limit[1]))
    try:
        with pytest.raises(BaseError):
            blobs.put("a/k", CONTENT)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_what_a_killed_upload_left_is_cleared_when_it_is_old(tmp_path):
    blobs = Blobs(tmp_path.as_uri())
    key = upload_key(uuid.uuid4())
    blobs.put(key, b"x")
    left = tmp_path / f"{key}#1"
    left.write_bytes(b"half of it")
    assert list(keys_older_than(blobs, timedelta(seconds=-5))) == [key], "no listing shows it"
    assert blobs.clear_partial(timedelta(hours=1)) == 0
    assert blobs.clear_partial(timedelta(seconds=-5)) == 1
    assert not left.exists()
    assert blobs.hash(key)[0] == 1


def test_a_listing_says_how_old_an_object_is(blobs):
    blobs.put("a/b", b"x")
    assert list(keys_older_than(blobs, timedelta(hours=1))) == []
    assert list(keys_older_than(blobs, timedelta(seconds=-5))) == ["a/b"]


def test_keys_are_made_of_ids_alone_and_never_meet():
    tenant, job = uuid.uuid4(), uuid.uuid4()
    assert output_key(tenant, job, 1, 2).startswith(f"{tenant}/{job}/1-2/")
    assert output_key(tenant, job, 1, 2) != output_key(tenant, job, 1, 2)
    assert upload_key(tenant).startswith(f"{tenant}/uploads/")


def test_unknown_scheme_names_the_remedy():
    with pytest.raises(ValueError, match="file:///directory or s3://"):
        Blobs("ftp://host/x")


MEASURE = """
import sys
from pathlib import Path
from expunge.store.blobs import Blobs

def peak():  # KiB; getrusage would count what the parent had at the fork
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])

blobs, file = Blobs(sys.argv[1]), Path(sys.argv[2])
blobs.put("small", b"x")
Path("/proc/self/clear_refs").write_text("5")
before = peak()
size, sha256 = blobs.put("large", file)
blobs.download("large", file.with_name("back"), sha256)
print(size, peak() - before)
"""


@pytest.mark.parametrize(("where", "mebibytes"), [("directory", 300), ("s3", 80)])
def test_a_large_file_is_stored_and_fetched_in_little_memory(request, tmp_path, where, mebibytes):
    url = request.getfixturevalue("bucket") if where == "s3" else (tmp_path / "store").as_uri()
    file = tmp_path / "large"
    with file.open("wb") as out:
        out.write(CONTENT)
        out.truncate(mebibytes << 20)
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, url, str(file)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr
    size, grown = map(int, done.stdout.split())
    assert size == mebibytes << 20
    assert grown < 64 << 10, f"{grown >> 10} MiB"
    assert filecmp.cmp(tmp_path / "back", file, shallow=False)


def test_of_writers_of_one_large_key_in_s3_one_wins(bucket):
    blobs = Blobs(bucket)

    def write(n: int) -> int | None:
        try:
            blobs.put("k", bytes([n]) * (PART + 1))
        except BlobExists:
            return None
        return n

    with ThreadPoolExecutor(4) as pool:
        (winner,) = [n for n in pool.map(write, range(4)) if n is not None]
    assert b"".join(blobs.read("k")) == bytes([winner]) * (PART + 1)


@pytest.mark.parametrize("parts", [3, PARTS])
def test_an_object_too_large_for_one_copy_is_moved_all_the_same(bucket, monkeypatch, parts: int):
    blobs = Blobs(bucket)
    blobs.put("a", CONTENT * 20)
    monkeypatch.setattr("expunge.store.blobs.COPIED", CHUNK)
    monkeypatch.setattr("expunge.store.blobs.PARTS", parts)
    blobs.move("a", "b")
    blobs.move("a", "b")
    assert b"".join(blobs.read("b")) == CONTENT * 20
    with pytest.raises(NotFound):
        blobs.size("a")
