"""The artifact store: objects in a directory or in S3, through obstore.

Storage keys are made here of UUIDs; an object is written once and never overwritten.
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
from datetime import datetime, timedelta
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
# Uploads to S3 in parts: smallest size of a part, most parts, parts sent at once
PART, PARTS, AT_ONCE = (8 << 20, 9000, 4)
COPIED = 5 << 30  # bytes that S3 can copy in one request
TICK = 0.05  # seconds: two changes of a file within one tick of the kernel's clock leave the same ctime
PAGE = 1000  # objects of a listing held at a time
UUID = "[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
# What output_key and upload_key make; groups: tenant, job
LAYOUT = re.compile(rf"({UUID})/(?:uploads|({UUID})/\d+-\d+)/{UUID}")
PARTIAL = re.compile(rf"{LAYOUT.pattern}#\d+")  # a file that is being written to such a key
MARKER = "expunge-deployment.json"  # names the deployment that the store belongs to: store/deployment.py
QUARANTINE = "quarantine/"  # objects that the sweep has moved away: store/quarantine.py


class Stamp(NamedTuple):
    """Size and version of a stored object: it differs once the object has changed.

    `changed`: a file's ctime in nanoseconds, which no user can set back; 0 in S3, where the version suffices.
    """

    size: int
    version: str
    changed: int

    def settled(self, at: float) -> bool:
        """Whether any change after the time `at` leads to another stamp."""
        return self.changed / 1e9 < at - TICK


def output_key(tenant_id: uuid.UUID, job_id: uuid.UUID, attempt: int, fence: int) -> str:
    """A new storage key for a job's output; two attempts never write to the same key.

    The file's name is only in its row.
    """
    return f"{tenant_id}/{job_id}/{attempt}-{fence}/{uuid.uuid4()}"


def upload_key(tenant_id: uuid.UUID) -> str:
    """A new storage key for an upload."""
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
        """Store a file atomically under a new key, and read it back; returns (size, sha256).

        Takes a few mebibytes of memory, whatever the file's size. `name`: the file name of a download by
        presigned URL.

        Raises: BlobExists; CorruptBlob where other bytes came back.
        """
        with open_source(file) as source:
            sha = hashlib.sha256()
            if self.folder is not None:
                write_file(self.folder / key, read_hashed(source, CHUNK, sha))
            else:
                self.put_s3(key, source, sha, name)
        size, got = self.hash(key)
        if got != (want := sha.hexdigest()):
            self.delete([key])
            raise CorruptBlob(f"'{key}' was stored as sha256 {got[:12]}…, not {want[:12]}…: check the disk")
        return size, got

    def put_s3(self, key: str, source: BinaryIO, sha: "hashlib._Hash", name: str) -> None:
        """Store a small file in one PUT, a larger one in parts, of which S3 accepts ten thousand.

        Only the single PUT can refuse a key that is in use: so a larger file's key is first taken by an empty
        object.

        Raises: BlobExists.
        """
        attributes: Attributes | None = {"Content-Disposition": content_disposition(name)} if name else None
        size = source.seek(0, os.SEEK_END)
        source.seek(0)
        content = source.read() if size <= PART else b""
        sha.update(content)
        try:
            obstore.put(self.store, key, content, mode="create", use_multipart=False, attributes=attributes)
        except AlreadyExistsError as error:
            raise BlobExists(f"'{key}' is in use") from error
        if size > PART:
            part = max(PART, -(-size // PARTS))
            stream = read_hashed(source, part, sha)
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
        """Size and version of a stored object.

        Raises: NotFound.
        """
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
        """Bytes [start, end) in chunks, each a request of its own in S3, which closes slow ones."""
        stop = self.size(key) if end is None else end
        for at in range(start, stop, chunk):
            yield bytes(obstore.get_range(self.store, key, start=at, end=min(at + chunk, stop)))

    def open(self, key: str) -> BufferedReader | None:
        """The stored file itself, where the store is a directory; None in S3.

        Raises: NotFound.
        """
        try:
            return None if self.folder is None else (self.folder / key).open("rb")
        except FileNotFoundError as error:
            raise NotFound(f"no object '{key}'") from error

    def read_all(self, key: str, sha256: str) -> bytes:
        """A whole small object, whose sha256 is checked.

        Raises: CorruptBlob, NotFound.
        """
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
        """Write an object to a local file, and check its sha256.

        Raises: CorruptBlob, NotFound.
        """
        sha = hashlib.sha256()
        with path.open("wb") as file:
            for chunk in self.read(key, chunk=PART):
                sha.update(chunk)
                file.write(chunk)
        if sha.hexdigest() != sha256:
            path.unlink()
            raise CorruptBlob(f"'{key}' does not match its sha256")

    def delete(self, keys: list[str]) -> None:
        """Delete objects; those that do not exist are ignored."""
        for key in keys:
            try:
                obstore.delete(self.store, key)
            except FileNotFoundError:
                continue

    def list_pages(self, prefix: str | None = None) -> Iterator[list[tuple[str, datetime]]]:
        """(key, when it was stored) of every object, in pages, so that any number fits into memory."""
        for page in obstore.list(self.store, prefix, chunk_size=PAGE):
            yield [(meta["path"], meta["last_modified"]) for meta in page]

    def move(self, key: str, to: str) -> None:
        """Move an object to another key, and replace what is there; one that does not exist is ignored."""
        with suppress(FileNotFoundError, NotFound):
            if self.folder is None and (size := self.size(key)) > COPIED:
                part = max(PART, -(-size // PARTS))
                obstore.put(
                    self.store,
                    to,
                    read_in_thread(self.read(key, chunk=part)),
                    use_multipart=True,
                    chunk_size=part,
                    max_concurrency=1,
                )
                self.delete([key])
            else:
                obstore.rename(self.store, key, to)

    def presign(self, key: str, lifetime: timedelta) -> str | None:
        """A URL from which anybody can GET this object for `lifetime`; None for a directory."""
        return obstore.sign(self.store, "GET", key, lifetime) if isinstance(self.store, S3Store) else None

    def clear_partial(self, age: timedelta) -> int:
        """Delete what uploads that were killed left in the directory; returns how many files.

        No listing shows them. In S3, the bucket's own rule (AbortIncompleteMultipartUpload) deletes the parts
        of such uploads.
        """
        before, deleted = time.time() - age.total_seconds(), 0
        for path in self.folder.rglob("*#*") if self.folder is not None else ():
            if not PARTIAL.fullmatch(path.relative_to(self.folder or path).as_posix()):
                continue
            with suppress(FileNotFoundError):  # an upload that has just ended
                if path.stat().st_mtime < before:
                    path.unlink()
                    deleted += 1
        return deleted

    def ping(self) -> None:
        """Reach the store.

        Raises: obstore's errors.
        """
        next(iter(obstore.list(self.store, chunk_size=1)), None)


def content_disposition(name: str) -> str:
    """A Content-Disposition header (RFC 6266): always an attachment, so that no browser runs the content."""
    last = name.rsplit("/", 1)[-1]
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "._- ") else "_" for c in last)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(last, safe='')}"


@contextmanager
def open_source(file: Path | bytes | BinaryIO) -> Iterator[BinaryIO]:
    """A file to read from its beginning; one that was open already is not closed."""
    if isinstance(file, Path):
        with file.open("rb") as source:
            yield source
    elif isinstance(file, bytes):
        yield BytesIO(file)
    else:
        file.seek(0)
        yield file


def read_hashed(source: BinaryIO, size: int, sha: "hashlib._Hash") -> Iterator[bytes]:
    """The rest of a file in pieces, each added to the hash."""
    while piece := source.read(size):
        sha.update(piece)
        yield piece


def read_in_thread(content: Iterator[bytes]) -> Iterator[bytes]:
    """The same pieces, read in another thread: obstore cannot read in the thread that it writes from."""
    with ThreadPoolExecutor(1) as pool:
        while piece := pool.submit(next, content, b"").result():
            yield piece


def write_file(path: Path, content: Iterator[bytes]) -> None:
    """Write a new file whole, and to the disk itself, or not at all.

    Until it is whole it has a name that no listing shows (PARTIAL).

    Raises: BlobExists; obstore's GenericError where the disk refuses.
    """
    partial = path.with_name(f"{path.name}#{secrets.randbelow(10**9)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                for piece in content:
                    file.write(piece)
                file.flush()
                os.fsync(file.fileno())
            os.link(partial, path)
        finally:
            partial.unlink(missing_ok=True)
        sync_folder(path.parent)
    except FileExistsError as error:
        raise BlobExists(f"'{path.name}' is in use") from error
    except OSError as error:
        raise GenericError(f"cannot write to {path.parent}: {error.strerror}") from error


def sync_folder(folder: Path) -> None:
    """Write a folder's entries to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
