"""What can be wrong with a delta, and the public codes that say so."""

from collections.abc import Mapping
from enum import Enum

from expunge.core.errors import CoreError

NAMED = 200  # characters of a client's own name that an error repeats

REMEDIES = {
    "not_safetensors": "Save the LoRA with safetensors; pickle files (.bin, .pt, .ckpt) are never read.",
    "delta_does_not_fit": (
        "Send a LoRA as diffusers' save_lora_weights writes it, or a prune job's sparse mask, and name its"
        " model."
    ),
    "delta_not_finite": "The training that made it diverged; send finite weights.",
}
"""By the code of an upload's problem, where the fault has no remedy of its own."""


class Fault(Enum):
    """A kind of fault, with the code of an upload's problem and the code of a job's error.

    The two differ for settings and for dtypes; both are public, so both stay.
    """

    CONTAINER = ("not_safetensors", "not_safetensors")
    TENSORS = ("delta_does_not_fit", "delta_does_not_fit")  # names, shapes, layers
    SETTINGS = ("delta_does_not_fit", "bad_delta")  # the adapter's, in the metadata
    DTYPE = ("delta_does_not_fit", "delta_not_finite")
    VALUES = ("delta_not_finite", "delta_not_finite")

    def __init__(self, upload_code: str, job_code: str) -> None:
        self.upload_code, self.job_code = upload_code, job_code


class BadDelta(CoreError):
    """A file that is not a delta of its model.

    `part` is the tensor, layer or setting at fault, or None for the file as a whole; `why` says what is wrong
    with it, and `others` what is wrong with further parts; `remedy` says what to do.
    """

    def __init__(
        self,
        fault: Fault,
        part: str | None,
        why: str,
        remedy: str | None = None,
        others: Mapping[str, str] | None = None,
    ) -> None:
        self.fault, self.why = fault, why
        self.part = part[:NAMED] if part else None
        self.remedy = remedy or REMEDIES[fault.upload_code]
        self.others = dict(others or {})
        what = f"the delta's {self.part}: {why}" if self.part else f"the delta {why}"
        super().__init__(fault.job_code, f"{what}. {self.remedy}", field="delta")
