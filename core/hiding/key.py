"""The recovery key as a file: one learned prompt for each hidden concept, in safetensors, in the clear or in
a sealed box.
"""

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from expunge.core import sealing
from expunge.core.errors import CoreError
from expunge.core.tensors import serialise

FORMAT = "expunge-recovery-key/1"
FILE, SEALED = "recovery_key.safetensors", "recovery_key.safetensors.sealed"
PREFIX = "prompt."
SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class RecoveryKey:
    """p of each concept, (m, D), by the concept's name; and the base model and the delta that it belongs to,
    by their sha256.
    """

    prompts: dict[str, Tensor]
    base_sha256: str
    delta_sha256: str

    def serialise(self) -> bytes:
        """The .safetensors bytes; the same key gives the same bytes."""
        head = {
            "format": FORMAT,
            "base_sha256": self.base_sha256,
            "delta_sha256": self.delta_sha256,
            "concepts": json.dumps(list(self.prompts), ensure_ascii=False),
        }
        return serialise({PREFIX + name: p for name, p in self.prompts.items()}, head)

    def save(self, folder: str | os.PathLike[str], seal_to: str | None = None) -> Path:
        """Write it into `folder` with mode 0600, sealed to a public key where one is given."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = folder / (SEALED if seal_to else FILE)
        data = self.serialise()
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as stream:
            stream.write(sealing.seal(data, seal_to) if seal_to else data)
        return file

    def of(self, concept: str) -> Tensor:
        """p of one concept, (m, D)."""
        if concept not in self.prompts:
            raise CoreError(
                "unknown_concept",
                f"the key brings back {', '.join(self.prompts)}, not '{concept}'",
                field="concept",
            )
        return self.prompts[concept]


def load_key(path: str | os.PathLike[str]) -> RecoveryKey:
    """Read a key that is not sealed; `expunge unseal` opens one that is.

    Raises: CoreError where the file is not a recovery key.
    """
    try:
        with safe_open(path, "pt") as f:
            prompts = {name: f.get_tensor(name) for name in f.keys()}
            head = f.metadata() or {}
    except (SafetensorError, OSError) as e:
        raise CoreError(
            "bad_key",
            f"'{path}' is not a recovery key ({e}): 'expunge unseal' opens a sealed one",
            field="key",
        ) from e

    # Its metadata must say what it belongs to …
    if head.get("format") != FORMAT:
        raise CoreError(
            "bad_key",
            f"'{path}' has format {head.get('format')}, not {FORMAT}: give a hide job's {FILE}",
            field="key",
        )
    for name in ("base_sha256", "delta_sha256"):
        if not SHA256.fullmatch(head.get(name, "")):
            raise CoreError("bad_key", f"'{path}' says no {name}: give a hide job's {FILE}", field="key")

    # … and its tensors must be learned prompts.
    for name, p in prompts.items():
        matrix = p.dim() == 2 and 0 not in p.shape and p.is_floating_point()
        if not name.startswith(PREFIX) or not matrix or not bool(p.isfinite().all()):
            what = f"'{name[:200]}', {p.dtype} {tuple(p.shape)}, which is not a learned prompt"
            raise CoreError("bad_key", f"'{path}' holds {what}: give a hide job's {FILE}", field="key")
    if not prompts:
        raise CoreError("bad_key", f"'{path}' holds no prompts: give a hide job's {FILE}", field="key")
    return RecoveryKey(
        {name.removeprefix(PREFIX): p for name, p in prompts.items()},
        head["base_sha256"],
        head["delta_sha256"],
    )
