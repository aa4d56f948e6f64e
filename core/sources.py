"""What stands behind a registered model's name: a folder, the bundled model, or a repository of the hub,
pinned or not. Imports no torch.
"""

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from expunge import core
from expunge.core import layouts, published, single_files
from expunge.core.errors import CoreError
from expunge.core.layout_checks import ARCHITECTURE_XL, ARCHITECTURES, INDEX, SD, XL

BUNDLED = Path(core.__path__[0]) / "bundled"
HUB = re.compile(
    r"([A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*)(?:@([A-Za-z0-9][A-Za-z0-9._/-]*))?"
)
PIN = re.compile(r"(.+)#sha256:([0-9a-f]{64})", re.DOTALL)
NAMES = {
    published.SD1: ARCHITECTURES[768],
    published.SD2_512: ARCHITECTURES[1024],
    published.SD2_768: ARCHITECTURES[1024],
    published.XL_BASE: ARCHITECTURE_XL,
    published.CUSTOM_XL: ARCHITECTURE_XL,
    published.CUSTOM: "Stable Diffusion",
}
"""Architectures as they are told, by ModelSpec's names."""
ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
Kind = Literal["bundled", "local", "hub"]
FORMS = (
    "give a diffusers folder, a checkpoint's .safetensors file, 'bundled:emoji', or a hub id as"
    " 'organisation/name' or 'organisation/name@revision'"
)


@dataclass(frozen=True)
class Source:
    """`name` is the bundled model's, a path, or a hub id; `revision` a branch, tag or commit of the hub;
    `digest` the sha256 that the model must have.
    """

    kind: Kind
    name: str
    revision: str | None = None
    digest: str | None = None

    @property
    def file(self) -> Path | None:
        """The checkpoint in one file that it names, if it is one."""
        path = Path(self.name).expanduser()
        return path if self.kind == "local" and single_files.is_one(path) else None


def parse(text: str | os.PathLike[str]) -> Source:
    """`bundled:NAME`, a folder or a checkpoint's file, `organisation/name` or `organisation/name@revision`;
    each may end in `#sha256:DIGEST`. What exists as a path is one.
    """
    name, digest = os.fspath(text), None
    if pinned := PIN.fullmatch(name):
        name, digest = pinned[1], pinned[2]
    if name.startswith("bundled:"):
        return Source("bundled", name.removeprefix("bundled:"), digest=digest)
    hub = HUB.fullmatch(name)
    if hub and not Path(name).exists():
        return Source("hub", hub[1], hub[2], digest)
    return Source("local", name, digest=digest)


def folder_of(text: str | os.PathLike[str]) -> Path | None:
    """Where the source's files lie on this host; None where they do not. Of a hub id its snapshot in the
    hub's cache, of a checkpoint in one file where it is laid out; nothing is fetched.
    """
    source = parse(text)
    match source.kind:
        case "bundled":
            folder = BUNDLED / source.name
        case "local":
            folder = Path(source.name).expanduser()
            if source.file:
                folder = single_files.place_of(source.file)
        case "hub":
            from huggingface_hub import try_to_load_from_cache

            found = try_to_load_from_cache(source.name, INDEX, revision=source.revision or "main")
            return Path(found).parent if isinstance(found, str) else None
    return folder if folder.is_dir() else None


def fetch(text: str | os.PathLike[str]) -> layouts.Layout:
    """The layout of a source, whose files of a hub id are fetched first where the cache lacks them. CoreError
    where it cannot be used.

    What the cache has is used as it is: a branch that has moved on the hub since is not looked at again.
    """
    source, folder = parse(text), folder_of(text)
    if source.file:
        return layouts.look(single_files.unpacked(source.file))
    if source.kind != "hub":
        return layouts.look(folder or nothing_at(source))
    if folder is not None:
        try:
            return layouts.look(folder)
        except CoreError as error:
            if error.code == "model_not_supported" or offline():
                raise
    return layouts.look(download(source))


def nothing_at(source: Source) -> Path:
    """The file that a source names in place of a folder; CoreError `unknown_model` where there is nothing
    at all.
    """
    if source.kind == "bundled":
        there = ", ".join(sorted(f"'bundled:{index.parent.name}'" for index in BUNDLED.glob(f"*/{INDEX}")))
        raise CoreError(
            "unknown_model", f"there is no bundled model '{source.name}': there is {there}", field="model"
        )
    path = Path(source.name).expanduser()
    if path.is_file():
        return path
    if "://" in source.name:
        raise CoreError("model_not_supported", f"a URL is not fetched: {FORMS}", field="model")
    why = FORMS
    if (BUNDLED / source.name).is_dir() and ID.fullmatch(source.name):
        why = f"did you mean 'bundled:{source.name}'? {FORMS}"
    raise CoreError("unknown_model", f"there is no folder '{source.name}' on this host: {why}", field="model")


def offline() -> bool:
    """Whether the hub may not be asked (HF_HUB_OFFLINE)."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def download(source: Source) -> Path:
    """Fetch what a hub model is read from, and nothing else of its repository: configurations and tokenizer;
    then, where they fit, one set of safetensors.
    """
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import (  # type: ignore[attr-defined]
        HfHubHTTPError,
        HTTPError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
    )

    named = f"'{source.name}'" + (f" at revision '{source.revision}'" if source.revision else "")
    try:
        names = HfApi().list_repo_files(source.name, revision=source.revision)
        own = {n.split("/")[0] for n in names if n.count("/") == 1}
        _, needed = layouts.parts_of(XL if "text_encoder_2" in own else SD)
        parts = {
            p: [n.split("/")[1] for n in names if n.startswith(f"{p}/") and n.count("/") == 1] for p in needed
        }
        wanted, variants = layouts.choose(parts)
        settings = [INDEX, "vocabulary.json"]
        for p in needed:
            settings += [f"{p}/{n}" for n in parts[p] if layouts.is_setting(p, n)]
        layouts.check_settings(
            Path(snapshot_download(source.name, revision=source.revision, allow_patterns=settings))
        )
        patterns = settings
        for part, chosen in wanted.items():
            variant = variants.get(part)  # type: ignore[call-overload]
            shards = f".{variant}" if variant else ""
            base = layouts.WEIGHTS_XL.get(part)  # type: ignore[call-overload]
            patterns += [f"{part}/{n}" for n in chosen]
            if any(".index" in n for n in chosen):
                patterns += [f"{part}/{base}{shards}-*.safetensors", f"{part}/{base}-*{shards}.safetensors"]
        return Path(snapshot_download(source.name, revision=source.revision, allow_patterns=patterns))
    except (OfflineModeIsEnabled, LocalEntryNotFoundError) as error:
        raise not_fetched(source, named) from error
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else 0
        if status in (401, 403, 404):
            raise CoreError(
                "unknown_model",
                f"there is no folder {named}, nor does the hub show such a model to this host: check its name"
                " and revision; for one that is gated or private set HF_TOKEN",
                field="model",
            ) from error
        raise CoreError(
            "model_not_fetched",
            f"the hub did not give {named} (HTTP {status}): try again",
            field="model",
            retryable=True,
        ) from error
    except (HTTPError, OSError) as error:  # the connection's
        raise not_fetched(source, named) from error


def not_fetched(source: Source, named: str) -> CoreError:
    command = f"hf download {source.name}" + (f" --revision {source.revision}" if source.revision else "")
    return CoreError(
        "model_not_fetched",
        f"{named} is neither a folder nor in this host's hub cache, and the hub cannot be reached: run"
        f" '{command}' where it can, or name a folder",
        field="model",
        retryable=True,
    )


def digest_of(layout: layouts.Layout) -> str:
    """sha256 over the names and contents of the files that decide what the model draws: the same on every
    host, whatever its device and precision.
    """
    total = hashlib.sha256()
    for name in layout.files:
        total.update(name.encode() + b"\0")
        with (layout.folder / name).open("rb") as stream:
            total.update(hashlib.file_digest(stream, "sha256").digest())
    return total.hexdigest()


@dataclass(frozen=True)
class Checked:
    """What this host knows of a registered model without loading it.

    `seen`: its files lie here. `architecture`: where they load. `code` and `problem`: why it cannot be used,
    without a path of this host.
    """

    id: str
    kind: Kind
    seen: bool
    architecture: str | None = None
    code: str | None = None
    problem: str | None = None


def check(id_: str, text: str) -> Checked:
    """Look at a registered model.

    Where its files are not here, `seen` is false, and `problem` says how they get here.
    """
    source, folder = parse(text), folder_of(text)
    try:
        if folder is None and source.kind == "hub":
            if offline():
                raise not_fetched(source, f"'{source.name}'")
            return Checked(id_, source.kind, False)  # fetched at its first job
        if source.file:
            return Checked(id_, source.kind, True, NAMES[single_files.look(source.file)])
        layout = layouts.look(folder or nothing_at(source))
        return Checked(id_, source.kind, True, layout.architecture)
    except CoreError as error:
        if source.kind == "hub" and error.code in ("model_incomplete", "model_broken") and not offline():
            return Checked(id_, source.kind, False)  # what the cache lacks is fetched
        seen = error.code not in ("unknown_model", "model_not_fetched")
        hidden = source.kind == "local" and not seen
        why = (
            "its folder is not on this host: mount it here, or mend its path in EXPUNGE_MODELS"
            if hidden
            else error.message
        )
        return Checked(id_, source.kind, seen, None, error.code, why)


def check_all(models: Mapping[str, str]) -> list[Checked]:
    """Each of EXPUNGE_MODELS, in order."""
    return [check(id_, text) for id_, text in models.items()]
