"""What a worker computes on, and whose fault an error is."""

import errno

import pytest
from obstore.exceptions import GenericError

from expunge.core.errors import CoreError
from expunge.store.errors import Unreadable
from expunge.store.settings import Settings
from expunge.worker import devices
from expunge.worker.error_causes import find_fault


@pytest.mark.parametrize(
    ("wanted", "shown", "left"),
    [
        (None, None, None),
        ("cuda", "3", "3"),
        ("cuda:1", None, "1"),
        ("cuda:1", "4,6", "6"),
        ("cuda:0", "GPU-5ebe, GPU-77aa", "GPU-5ebe"),
        ("cpu", "0,1", ""),
    ],
)
def test_the_device_is_one_of_those_that_the_environment_shows(wanted, shown, left):
    environment = {} if shown is None else {"CUDA_VISIBLE_DEVICES": shown}
    devices.choose(wanted, environment)
    assert environment.get("CUDA_VISIBLE_DEVICES") == left
    again = dict(environment)
    devices.choose(environment.get("EXPUNGE_DEVICE", wanted), again)
    assert again == environment, "whoever inherits the environment finds the same device"


def test_a_device_that_the_environment_does_not_show_is_refused_by_name():
    with pytest.raises(SystemExit, match="EXPUNGE_DEVICE is 'cuda:2', but CUDA_VISIBLE_DEVICES shows 2"):
        devices.choose("cuda:2", {"CUDA_VISIBLE_DEVICES": "0,1"})


@pytest.mark.parametrize("wanted", ["gpu", "cuda:", "cuda:x", "mps", "cuda:0,cuda:1"])
def test_what_is_no_device_is_refused_with_the_settings(wanted):
    with pytest.raises(ValueError, match=r"device\n"):
        Settings.model_validate({"device": wanted})


def test_a_gpu_that_torch_cannot_use_is_no_cpu():
    import torch

    if torch.cuda.is_available():
        assert devices.check_device("cuda")
    else:
        with pytest.raises(devices.DeviceUnusable, match="finds no such device"):
            devices.check_device("cuda:0")
    assert devices.check_device("cpu") == (
        "cpu" if not torch.cuda.is_available() else torch.cuda.get_device_name()
    )


def hub_error() -> Exception:
    from huggingface_hub.errors import LocalEntryNotFoundError

    return LocalEntryNotFoundError("nothing in the cache")


def lazily() -> Exception:
    from torch.cuda import DeferredCudaCallError

    return DeferredCudaCallError(
        "CUDA call failed lazily at initialization with error: device >= 0 && device < num_gpus INTERNAL"
        " ASSERT FAILED"
    )


def caused(by: Exception) -> Exception:
    try:
        raise RuntimeError("Error while loading") from by
    except RuntimeError as error:
        return error


@pytest.mark.parametrize(
    ("error", "code"),
    [
        *(
            (RuntimeError(words), "device_error")
            for words in (
                "CUDA error: uncorrectable ECC error encountered",
                "CUDA error: the launch timed out and was terminated",
                "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED",
                "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm(...)`",
                "No CUDA GPUs are available",
                "no CUDA-capable device is detected",
                "Found no NVIDIA driver on your system.",
                "CUDA driver initialization failed, you might not have a CUDA gpu.",
                "CUDA unknown error - this may be due to",
                "NCCL error in: ProcessGroupNCCL.cpp:1",
                "cuInit failed",
                "Unable to determine the device handle for GPU: GPU is lost, NVML",
                "Unexpected error from cudaGetDeviceCount(). Error 802: system not yet initialized",
                "Triton Error [CUDA]: context is destroyed",
            )
        ),
        (lazily(), "device_error"),
        (AssertionError("Torch not compiled with CUDA enabled"), "device_error"),
        (caused(RuntimeError("CUDA error: device-side lost, ECC error")), "device_error"),
        (ConnectionResetError(), "network_error"),
        (TimeoutError(), "network_error"),
        (hub_error(), "network_error"),
        (OSError("We couldn't connect to 'https://huggingface.co' to load the files"), "network_error"),
        (OSError(errno.ENOSPC, "full"), "storage_error"),
        *(
            (OSError(number, "x"), "storage_error")
            for number in (errno.ESTALE, errno.EUCLEAN, errno.EBADMSG, errno.EREMOTEIO, errno.EHOSTDOWN)
        ),
        *(
            (OSError(number, "x"), "network_error")
            for number in (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN)
        ),
        (PermissionError(errno.EACCES, "no"), "storage_error"),
        (GenericError("the store is away"), "storage_error"),
        (ImportError("libcudart.so.13"), "library_error"),
        (
            OSError("libcudnn.so.9: cannot open shared object file: No such file or directory"),
            "library_error",
        ),
        (OSError(errno.EMFILE, "Too many open files"), "host_error"),
        (RuntimeError("can't start new thread"), "host_error"),
        (Unreadable("sealed under another secret"), "secret_error"),
        (MemoryError(), "out_of_memory"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "out_of_memory"),
        (CoreError("model_incomplete", "unet/ is missing", field="model"), "model_incomplete"),
    ],
)
def test_what_a_host_fails_at_is_its_fault(error, code):
    found = find_fault(error)
    assert found is not None
    assert found.code == code
    assert found.blames_worker == (code != "out_of_memory")


@pytest.mark.parametrize(
    "error",
    [
        CoreError("loss_not_finite", "m", field="f"),
        ValueError("CUDA error is a word of a concept"),
        KeyError("church"),
        FileNotFoundError(errno.ENOENT, "x"),
        RuntimeError("CUDA error: device-side assert triggered"),
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("The size of tensor a (4) must match the size of tensor b (8)"),
        OSError(errno.ENAMETOOLONG, "File name too long"),
    ],
)
def test_what_a_job_asks_for_is_not(error):
    assert find_fault(error) is None
