"""Prometheus metrics: requests as they happen, jobs and workers as the database has them at each scrape."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
UNMATCHED = "unmatched"
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)  # seconds


def method_label(method: str) -> str:
    """The request's method as a label; methods that a client made up are all `OTHER`."""
    return method if method in METHODS else "OTHER"


@dataclass(frozen=True)
class DatabaseCounts:
    """Numbers from the database at one scrape."""

    jobs: dict[str, int]  # by status
    oldest: float  # seconds that the oldest queued job has waited
    corrupt: int  # artifacts
    paused: tuple[bool, int]  # whether the whole queue is paused, and how many tenants paused their own
    workers: dict[str, int]  # by state
    blocked: int  # models that queued jobs need and no ready worker has


class DatabaseCollector(Collector):
    """Reads the database at each scrape."""

    def __init__(self, count: Callable[[], DatabaseCounts]) -> None:
        self.count = count

    def collect(self) -> Iterator[Metric]:
        counts = self.count()
        jobs = GaugeMetricFamily("expunge_jobs", "Jobs by status.", labels=["status"])
        for status, number in counts.jobs.items():
            jobs.add_metric([status], number)
        yield jobs
        workers = GaugeMetricFamily(
            "expunge_workers", "Workers by state; lost: silent for less than an hour.", labels=["state"]
        )
        for state, number in counts.workers.items():
            workers.add_metric([state], number)
        yield workers
        yield GaugeMetricFamily(
            "expunge_queue_age_seconds", "Age of the oldest queued job.", value=counts.oldest
        )
        yield GaugeMetricFamily(
            "expunge_corrupt_artifacts", "Artifacts known to be damaged or missing.", value=counts.corrupt
        )
        yield GaugeMetricFamily(
            "expunge_queue_paused", "1 while the operator has paused the whole queue.", value=counts.paused[0]
        )
        yield GaugeMetricFamily(
            "expunge_paused_tenants", "Tenants that have paused their own queue.", value=counts.paused[1]
        )
        yield GaugeMetricFamily(
            "expunge_models_without_worker",
            "Models that queued jobs need and no ready worker has.",
            value=counts.blocked,
        )


class Metrics:
    """The counters of one app."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

        # Traffic.
        labels = ("method", "route", "status")
        self.requests = Counter(
            "expunge_http_requests_total", "Requests answered.", labels, registry=self.registry
        )
        self.latency = Histogram(
            "expunge_http_request_seconds",
            "Time to answer.",
            ("method", "route"),
            buckets=BUCKETS,
            registry=self.registry,
        )
        self.streams = Counter("expunge_event_streams_total", "Event streams opened.", registry=self.registry)

        # What went wrong, or was refused.
        self.corrupt_artifacts = Counter(
            "expunge_artifacts_corrupt_total",
            "Downloads refused because the bytes did not match their sha256.",
            registry=self.registry,
        )
        self.broker_failures = Counter(
            "expunge_bell_failures_total",
            "Job announcements that did not reach the broker.",
            registry=self.registry,
        )
        self.rate_limited = Counter(
            "expunge_rate_limited_total",
            "Requests refused by a rate limit.",
            ("policy",),
            registry=self.registry,
        )
        self.rate_limit_failures = Counter(
            "expunge_rate_limit_failures_total",
            "Times Redis did not answer, so that requests were not counted.",
            registry=self.registry,
        )

    def observe(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request.

        Every label has a closed set of values; requests that were rate limited before they reached a route
        are one series.
        """
        method = "OTHER" if status == 429 and route == UNMATCHED else method_label(method)
        self.requests.labels(method, route, str(status)).inc()
        self.latency.labels(method, route).observe(seconds)

    def register_database(self, count: Callable[[], DatabaseCounts]) -> None:
        """Let each scrape call `count`."""
        self.registry.register(DatabaseCollector(count))

    def text(self) -> bytes:
        return generate_latest(self.registry)
