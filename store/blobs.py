"""Artifact bytes in a directory or S3, through obstore.

Keys are built here from UUIDs; an object is written once and never overwritten.
"""

import hashlib
import os
import re
import secrets
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from io import BufferedReader, BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple
from urllib.parse import quote, unquote, urlsplit

import obstore
from obstore.exceptions import AlreadyExistsError, GenericError
from obstore.store import LocalStore, ObjectStore, S3Store, from_url

from expunge.store.errors import BlobExists, CorruptBlob, NotFound

if TYPE_CHECKING:
    from obstore import Attributes

CHUNK = 1 << 20
# Of an upload to S3 in parts: bytes of one at least, how many at most, how many under way
PART, PARTS, AT_ONCE = (8 << 20, 9000, 4)
COPIED = 5 << 30  # bytes that S3 copies in one request
TICK = 0.05  # seconds: two changes of a file within one tick of the kernel's clock leave the same ctime
PAGE = 1000  # objects of a listing held at a time
UUID = "[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
# What the two functions below make: tenant, job
LAYOUT = re.compile(rf"({UUID})/(?:uploads|({UUID})/\d+-\d+)/{UUID}")
PARTIAL = re.compile(rf"{LAYOUT.pattern}#\d+")  # a file under way to such a key
MARKER = "expunge-deployment.json"  # whose store it is: store/deployment.py
QUARANTINE = "quarantine/"  # what the sweep has set aside: store/quarantine.py


class Stamp(NamedTuple):
    """Size and version of a stored object.

    `changed` is a file's ctime in nanoseconds, which no user can set back; 0 in S3, whose versions say it
    all.
    """

    size: int
    version: str
    changed: int

    def settled(self, at: float) -> bool:
        """Whether any change after the time `at` gives another stamp."""
        return self.changed / 1e9 < at - TICK


def output_key(tenant_id: uuid.UUID, job_id: uuid.UUID, attempt: int, fence: int) -> str:
    """A fresh key for an output; a zombie's upload and its successor's never meet.

    The file's name is in its row only.
    """
    return f"{tenant_id}/{job_id}/{attempt}-{fence}/{uuid.uuid4()}"


def upload_key(tenant_id: uuid.UUID) -> str:
    return f"{tenant_id}/uploads/{uuid.uuid4()}"


class Blobs:
    """The artifact store behind one URL: file:///directory or s3://bucket/prefix."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.folder: Path | None = None
        self.store: ObjectStore
        if parts.scheme == "file":
            self.folder = Path(unquote(parts.path))
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.store = LocalStore(self.folder, mkdir=True)
        elif parts.scheme == "s3":
            self.store = from_url(url)
        else:
            raise ValueError(
                f"EXPUNGE_ARTIFACTS_URL has the scheme '{parts.scheme}': use file:///directory or s3://bucket/prefix"
            )

    def put(self, key: str, file: Path | bytes | BinaryIO, *, name: str = "") -> tuple[int, str]:
        """Store atomically under a new key, re-read and hash what was stored; (size, sha256). BlobExists,
        CorruptBlob.

        It takes some mebibytes of memory, whatever the file's size. `name` is what a presigned link's
        download is called.
        """
        with opened(file) as source:
            sha = hashlib.sha256()
            if self.folder is not None:
                write_file(self.folder / key, pieces(source, CHUNK, sha))
            else:
                self.send(key, source, sha, {"Content-Disposition": attachment(name)} if name else None)
        size, got = self.hash(key)
        if got != (want := sha.hexdigest()):
            self.delete([key])
            raise CorruptBlob(f"'{key}' was stored as sha256 {got[:12]}…, not {want[:12]}…: look at the disk")
        return size, got

    def send(self, key: str, source: BinaryIO, sha: "hashlib._Hash", attributes: "Attributes | None") -> None:
        """To S3: a small file in one PUT, a larger one in parts, of which S3 takes ten thousand. Only the PUT
        is atomic with create-if-absent, so whoever stores a larger file first takes the key with an empty
        object."""
        size = source.seek(0, os.SEEK_END)
        source.seek(0)
        content = source.read() if size <= PART else b""
        sha.update(content)
        try:
            obstore.put(self.store, key, content, mode="create", use_multipart=False, attributes=attributes)
        except AlreadyExistsError as error:
            raise BlobExists(f"'{key}' is taken") from error
        if size > PART:
            part = max(PART, -(-size // PARTS))
            stream = pieces(source, part, sha)
            obstore.put(
                self.store,
                key,
                stream,
                use_multipart=True,
                chunk_size=part,
                max_concurrency=AT_ONCE,
                attributes=attributes,
            )

    def size(self, key: str) -> int:
        try:
            return int(obstore.head(self.store, key)["size"])
        except FileNotFoundError as error:
            raise NotFound(f"no object '{key}'") from error

    def stamp(self, key: str) -> Stamp:
        """What changes when the stored object does. NotFound."""
        try:
            if self.folder is not None:
                found = (self.folder / key).stat()
                return Stamp(found.st_size, f"{found.st_ino} {found.st_mtime_ns}", found.st_ctime_ns)
            meta = obstore.head(self.store, key)
        except FileNotFoundError as error:
            raise NotFound(f"no object '{key}'") from error
        return Stamp(
            int(meta["size"]), f"{meta['e_tag']} {meta['version']} {meta['last_modified'].isoformat()}", 0
        )

    def read(
        self, key: str, start: int = 0, end: int | None = None, *, chunk: int = CHUNK
    ) -> Iterator[bytes]:
        """Bytes [start, end) in chunks, each a request of its own in S3: one that lasts as long as a slow
        reader would be broken off.
        """
        stop = self.size(key) if end is None else end
        for at in range(start, stop, chunk):
            yield bytes(obstore.get_range(self.store, key, start=at, end=min(at + chunk, stop)))

    def open(self, key: str) -> BufferedReader | None:
        """The stored file itself, where it lies in a directory. NotFound."""
        try:
            return None if self.folder is None else (self.folder / key).open("rb")
        except FileNotFoundError as error:
            raise NotFound(f"no object '{key}'") from error

    def read_all(self, key: str, sha256: str) -> bytes:
        """A whole small object, checked. CorruptBlob, NotFound."""
        content = b"".join(self.read(key))
        if hashlib.sha256(content).hexdigest() != sha256:
            raise CorruptBlob(f"'{key}' does not match its sha256")
        return content

    def hash(self, key: str) -> tuple[int, str]:
        """(size, sha256) of what is stored now."""
        file = self.open(key)
        if file is not None:
            with file:
                return os.fstat(file.fileno()).st_size, hashlib.file_digest(file, "sha256").hexdigest()
        sha, size = hashlib.sha256(), 0
        for chunk in self.read(key, chunk=PART):
            sha.update(chunk)
            size += len(chunk)
        return size, sha.hexdigest()

    def download(self, key: str, path: Path, sha256: str) -> None:
        """To a local file, checked while it comes. CorruptBlob, NotFound."""
        sha = hashlib.sha256()
        with path.open("wb") as file:
            for chunk in self.read(key, chunk=PART):
                sha.update(chunk)
                file.write(chunk)
        if sha.hexdigest() != sha256:
            path.unlink()
            raise CorruptBlob(f"'{key}' does not match its sha256")

    def delete(self, keys: list[str]) -> None:
        """Deleting what is gone is no error."""
        for key in keys:
            try:
                obstore.delete(self.store, key)
            except FileNotFoundError:
                continue

    def pages(self, prefix: str | None = None) -> Iterator[list[tuple[str, datetime]]]:
        """(key, when it was stored) of every object, some at a time, so that a listing takes no more memory
        for more objects.
        """
        for page in obstore.list(self.store, prefix, chunk_size=PAGE):
            yield [(meta["path"], meta["last_modified"]) for meta in page]

    def older_than(self, age: timedelta) -> Iterator[str]:
        """Keys of the objects that were stored longer ago than `age`; not the marker, nor what is set
        aside.
        """
        before = datetime.now(UTC) - age
        for page in self.pages():
            yield from (
                key for key, at in page if at < before and key != MARKER and not key.startswith(QUARANTINE)
            )

    def move(self, key: str, to: str) -> None:
        """Under another key, whatever that held. What is gone already is no error."""
        with suppress(FileNotFoundError, NotFound):
            if self.folder is None and (size := self.size(key)) > COPIED:
                part = max(PART, -(-size // PARTS))
                obstore.put(
                    self.store,
                    to,
                    apart(self.read(key, chunk=part)),
                    use_multipart=True,
                    chunk_size=part,
                    max_concurrency=1,
                )
                self.delete([key])
            else:
                obstore.rename(self.store, key, to)

    def link(self, key: str, lifetime: timedelta) -> str | None:
        """A URL that gives exactly this object to whoever has it, by GET, for so long; None for a
        directory, which nobody can reach.
        """
        return obstore.sign(self.store, "GET", key, lifetime) if isinstance(self.store, S3Store) else None

    def clear_partial(self, age: timedelta) -> int:
        """Delete what our own killed uploads left in the directory, which no listing shows. How many there
        were.

        In S3, parts of an upload that was killed wait for the bucket's own rule
        (AbortIncompleteMultipartUpload).
        """
        before, gone = time.time() - age.total_seconds(), 0
        for path in self.folder.rglob("*#*") if self.folder is not None else ():
            if not PARTIAL.fullmatch(path.relative_to(self.folder or path).as_posix()):
                continue
            with suppress(FileNotFoundError):  # an upload that has just ended
                if path.stat().st_mtime < before:
                    path.unlink()
                    gone += 1
        return gone

    def ping(self) -> None:
        """Raises when the store cannot be reached."""
        next(iter(obstore.list(self.store, chunk_size=1)), None)


def attachment(name: str) -> str:
    """Content-Disposition (RFC 6266): always an attachment, so that no browser runs what a job drew up."""
    last = name.rsplit("/", 1)[-1]
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "._- ") else "_" for c in last)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(last, safe='')}"


@contextmanager
def opened(file: Path | bytes | BinaryIO) -> Iterator[BinaryIO]:
    """To be read from its beginning; a file that was open already stays so."""
    if isinstance(file, Path):
        with file.open("rb") as source:
            yield source
    elif isinstance(file, bytes):
        yield BytesIO(file)
    else:
        file.seek(0)
        yield file


def pieces(source: BinaryIO, size: int, sha: "hashlib._Hash") -> Iterator[bytes]:
    """The rest of a file, hashed as it goes by."""
    while piece := source.read(size):
        sha.update(piece)
        yield piece


def apart(content: Iterator[bytes]) -> Iterator[bytes]:
    """The same, fetched in a thread of its own: obstore cannot read while it asks for what it is to write."""
    with ThreadPoolExecutor(1) as pool:
        while piece := pool.submit(next, content, b"").result():
            yield piece


def write_file(path: Path, content: Iterator[bytes]) -> None:
    """A file that is there whole, safe from a power cut, or not at all, and replaces none. BlobExists;
    obstore's GenericError where the disk refuses.

    Until it is whole it has a name that no listing shows (PARTIAL).
    """
    half = path.with_name(f"{path.name}#{secrets.randbelow(10**9)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with os.fdopen(os.open(half, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                for piece in content:
                    file.write(piece)
                file.flush()
                os.fsync(file.fileno())
            os.link(half, path)
        finally:
            half.unlink(missing_ok=True)
        sync(path.parent)
    except FileExistsError as error:
        raise BlobExists(f"'{path.name}' is taken") from error
    except OSError as error:
        raise GenericError(f"{path.parent} does not take the file: {error.strerror}") from error


def sync(folder: Path) -> None:
    """What is named in it stays so."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
