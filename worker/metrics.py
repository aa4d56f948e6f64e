"""Prometheus metrics of a worker and of the loops, served at EXPUNGE_METRICS_PORT.

A worker's jobs run in child processes that come and go: they count into files (prometheus_client's
multiprocess mode), which the parent adds up. A file belongs to a place in the pool, not to a process, so that
a worker which replaces its children a thousand times still has few.
"""

import os
import sys

from billiard import current_process
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server, values
from prometheus_client.multiprocess import MultiProcessCollector

from expunge.store.settings import Settings

SHARED = "PROMETHEUS_MULTIPROC_DIR"  # set in worker/app.py, as the library reads it when it is first imported
STEP_SECONDS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
STORAGE_SECONDS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
registry = CollectorRegistry()


def name_of_place() -> str:
    """Of this process in the pool: it names the file that the process counts into."""
    return f"place{getattr(current_process(), 'index', '-main')}"


if SHARED in os.environ:
    values.ValueClass = values.MultiProcessValue(name_of_place)  # type: ignore[no-untyped-call]

attempts = Counter(
    "expunge_attempts_total", "Attempts at jobs, by how they ended.", ("kind", "outcome"), registry=registry
)
faults = Counter(
    "expunge_worker_faults_total",
    "Attempts that failed by a fault of the worker.",
    ("code",),
    registry=registry,
)
out_of_memory_retries = Counter(
    "expunge_out_of_memory_retries_total", "Runs begun again with less memory.", registry=registry
)
step_seconds = Histogram(
    "expunge_step_seconds", "Time of one step of a run.", ("phase",), buckets=STEP_SECONDS, registry=registry
)
checkpoint_seconds = Histogram(
    "expunge_checkpoint_seconds", "Time to store a checkpoint.", buckets=STORAGE_SECONDS, registry=registry
)
publish_seconds = Histogram(
    "expunge_publish_seconds",
    "Time to store a job's artifacts and commit.",
    buckets=STORAGE_SECONDS,
    registry=registry,
)
gpu_memory = Gauge(
    "expunge_gpu_memory_bytes",
    "Memory that torch has allocated.",
    ("device",),
    multiprocess_mode="mostrecent",
    registry=registry,
)

expiries = Counter(
    "expunge_lease_expiries_total", "Leases that ran out: their workers were lost.", registry=registry
)
redispatches = Counter(
    "expunge_redispatches_total",
    "Jobs that the dispatcher announced, as nobody had claimed them.",
    registry=registry,
)
failed_messages = Counter(
    "expunge_bell_failures_total", "Wake-ups that did not reach the broker.", registry=registry
)
verified = Counter(
    "expunge_verified_artifacts_total", "Stored artifacts hashed again.", ("result",), registry=registry
)
swept = Counter(
    "expunge_swept_objects_total", "Stored objects deleted that no row named any more.", registry=registry
)
quarantined = Counter(
    "expunge_quarantined_objects_total", "Stored objects set aside that no row named.", registry=registry
)
refused_sweeps = Counter(
    "expunge_sweeps_refused_total", "Sweeps that touched nothing, by why.", ("reason",), registry=registry
)
changed_verdicts = Counter(
    "expunge_changed_verdicts_total",
    "Verdicts of published artifacts that the red team changed, by what they are now.",
    ("status",),
    registry=registry,
)


def serve(settings: Settings) -> None:
    """Serve what this process and its children count, on EXPUNGE_METRICS_PORT where that is set."""
    if settings.metrics_port is None:
        return
    served = registry
    if os.environ.get(SHARED):
        served = CollectorRegistry()
        MultiProcessCollector(served)  # type: ignore[no-untyped-call]
    start_http_server(settings.metrics_port, settings.metrics_host, served)


def note_gpu_memory() -> None:
    """Record it where a run has loaded torch and there is CUDA."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        for device in range(torch.cuda.device_count()):
            gpu_memory.labels(str(device)).set(torch.cuda.memory_allocated(device))
