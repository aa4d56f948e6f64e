"""Whose fault an error is: the job's, or the worker's (device, network, disk, libraries, memory, a model that
is missing).

A job whose worker failed goes to another one. So does a job with an unforeseen error, once: if it fails there
too, the fault is the job's.
"""

import errno
import re
from collections.abc import Iterator
from dataclasses import dataclass

from obstore.exceptions import BaseError as BlobError

from expunge.core.errors import CoreError
from expunge.store.errors import ForeignStore, Unreadable
from expunge.worker import out_of_memory

DISK = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EROFS,
    errno.EIO,
    errno.ESTALE,
    errno.EACCES,
    errno.EPERM,
    errno.ENXIO,
    errno.ENODEV,
    errno.ENOTCONN,
    errno.EUCLEAN,
    errno.EBADMSG,
    errno.EREMOTEIO,
    errno.ENOMEDIUM,
    errno.EHOSTDOWN,
)
HOST = (errno.EMFILE, errno.ENFILE, errno.EAGAIN)
UNREACHED = (errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTUNREACH)
DEVICE = re.compile(
    r"\bCUDA (?:error|driver|unknown error|initialization|runtime|call failed)|(?-i:\bcuda[A-Z]\w+\()|Triton"
    r" Error|CUDA-capable|cuInit|No CUDA GPUs|not compiled with CUDA|NVIDIA driver|"
    r"cu(?:DNN|BLAS|SOLVER|SPARSE|FFT|RAND)(?:Lt)?[ _](?:error|status)|\bNCCL\b|\bNVML\b|\bnvrtc\b|\bHIP"
    r" error|ECC error|device (?:was )?lost|fallen off the bus",
    re.IGNORECASE,
)
# A kernel refused its input: treated as any unforeseen error
ASSERTED = re.compile(r"device-side assert|CUDA_LAUNCH_BLOCKING.*assert", re.IGNORECASE)
LIBRARY = re.compile(
    r"cannot open shared object file|undefined symbol|wrong ELF class|GLIBC(?:XX)?_\d|invalid ELF header",
    re.IGNORECASE,
)
NETWORK = re.compile(
    r"couldn't connect to|Failed to resolve|Name or service not known|Temporary failure in name"
    r" resolution|Max retries exceeded"
)
# Libraries whose own errors are the network's
NETWORK_LIBRARIES = {
    "requests",
    "urllib3",
    "httpx",
    "httpcore",
    "huggingface_hub",
    "aiohttp",
    "socket",
    "ssl",
}
# core's codes for a model that this worker cannot load
MODEL_CODES = (
    "unknown_model",
    "model_incomplete",
    "model_broken",
    "model_not_supported",
    "model_not_fetched",
)


@dataclass(frozen=True)
class Fault:
    """A failure of the worker. The client sees it when it ended the job's last attempt."""

    code: str
    message: str

    @property
    def blames_worker(self) -> bool:
        """Whether this worker is suspect; a job that runs out of memory may be too large for any."""
        return self.code != "out_of_memory"

    def last_message(self, attempts: int) -> str:
        """What the job's error says after its last attempt."""
        return (
            f"{self.message}, and so it was in the last of {attempts} attempts: retry the job once the"
            " operator has seen to it"
        )


FAULTS = {
    "device_error": "the worker's device or its driver failed",
    "network_error": "the worker could not reach what it had to fetch",
    "storage_error": "the artifact store or the worker's disk refused to read or write",
    "library_error": "a library could not be loaded on the worker",
    "host_error": "the worker's host had no process, thread or open file to spare",
    "secret_error": "the worker's EXPUNGE_SECRET is not the one that the deployment's signing key lies under",
    "out_of_memory": (
        "the run did not fit into the host's memory: lower method.batch_size or method.lora.rank"
    ),
}


def find_fault(error: BaseException) -> Fault | None:
    """The worker's fault behind an error; None where it is the job's, or unforeseen."""
    if isinstance(error, CoreError):
        if error.code in MODEL_CODES:
            return Fault(error.code, f"the worker cannot load the job's model ({error.message})")
        return None
    for cause in causes_of(error):
        if (code := code_of(cause)) is not None:
            return Fault(code, FAULTS[code])
    return None


def code_of(error: BaseException) -> str | None:
    """One of FAULTS, by an error's class, errno and text."""
    text = str(error)
    # The job's own, though the text may look like the device's
    if ASSERTED.search(text) or (out_of_memory.out_of_memory(error) and not host_out_of_memory(error)):
        return None

    # The host's and the service's, by the surest sign first
    if isinstance(error, Unreadable):
        return "secret_error"
    if isinstance(error, BlobError | ForeignStore) or (isinstance(error, OSError) and error.errno in DISK):
        return "storage_error"
    if host_out_of_memory(error):
        return "out_of_memory"
    if (isinstance(error, OSError) and error.errno in HOST) or "can't start new thread" in text:
        return "host_error"
    if isinstance(error, ImportError) or LIBRARY.search(text):
        return "library_error"

    # The device's and the network's, mostly by their text
    if type(error).__name__ in ("AcceleratorError", "DeferredCudaCallError") or (
        isinstance(error, RuntimeError | OSError | AssertionError) and DEVICE.search(text)
    ):
        return "device_error"
    by_library = type(error).__module__.partition(".")[0] in NETWORK_LIBRARIES
    if by_library or isinstance(error, ConnectionError | TimeoutError):
        return "network_error"
    if isinstance(error, OSError) and (error.errno in UNREACHED or NETWORK.search(text)):
        return "network_error"
    return None


def host_out_of_memory(error: BaseException) -> bool:
    """Whether the host's memory ran out, not the device's."""
    return (
        isinstance(error, MemoryError)
        or getattr(error, "errno", None) == errno.ENOMEM
        or "can't allocate memory" in str(error)
    )


def causes_of(error: BaseException) -> Iterator[BaseException]:
    """An error, then those that led to it."""
    seen: BaseException | None = error
    for _ in range(10):
        if seen is None:
            return
        yield seen
        seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)
