"""Prometheus: requests as they happen, jobs as the database has them when asked."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
UNMATCHED = "unmatched"
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


def known_method(method: str) -> str:
    """The request's method as a label: whatever a client may have made up is one."""
    return method if method in METHODS else "OTHER"


@dataclass(frozen=True)
class Counted:
    """What the database says when it is asked."""

    jobs: dict[str, int]  # by status
    oldest: float  # seconds that the oldest queued job has waited
    corrupt: int  # artifacts
    paused: tuple[bool, int]  # the whole queue; and of so many tenants
    workers: dict[str, int]  # by state
    blocked: int  # models that queued jobs wait for in vain


class Jobs(Collector):
    """Jobs by status, the age of the oldest one waiting, artifacts that are damaged, pauses, workers by
    state.
    """

    def __init__(self, count: Callable[[], Counted]) -> None:
        self.count = count

    def collect(self) -> Iterator[Metric]:
        found = self.count()
        for name, told, label, by in (
            ("expunge_jobs", "Jobs by status.", "status", found.jobs),
            (
                "expunge_workers",
                "Workers by state; lost: silent for less than an hour.",
                "state",
                found.workers,
            ),
        ):
            family = GaugeMetricFamily(name, told, labels=[label])
            for key, n in by.items():
                family.add_metric([key], n)
            yield family
        yield GaugeMetricFamily(
            "expunge_queue_age_seconds", "Age of the oldest queued job.", value=found.oldest
        )
        yield GaugeMetricFamily(
            "expunge_corrupt_artifacts", "Artifacts known to be damaged or gone.", value=found.corrupt
        )
        yield GaugeMetricFamily(
            "expunge_queue_paused", "1 while the operator has paused the whole queue.", value=found.paused[0]
        )
        yield GaugeMetricFamily(
            "expunge_paused_tenants", "Tenants that have paused their own queue.", value=found.paused[1]
        )
        yield GaugeMetricFamily(
            "expunge_models_without_worker",
            "Models that queued jobs wait for and no ready worker has.",
            value=found.blocked,
        )


class Metrics:
    """The counters of one app."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
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
        self.corrupt = Counter(
            "expunge_artifacts_corrupt_total",
            "Downloads refused because the bytes did not match.",
            registry=self.registry,
        )
        self.unheard = Counter(
            "expunge_bell_failures_total", "Wake-ups that did not reach the broker.", registry=self.registry
        )
        self.limited = Counter(
            "expunge_rate_limited_total",
            "Requests refused by a rate limit.",
            ("policy",),
            registry=self.registry,
        )
        self.unchecked = Counter(
            "expunge_rate_limit_failures_total",
            "Times that Redis did not answer and requests went uncounted.",
            registry=self.registry,
        )

    def observe(self, method: str, route: str, status: int, seconds: float) -> None:
        """Every label comes from a closed set; what was refused before it met a route for coming too often is
        one series.
        """
        method = "OTHER" if status == 429 and route == UNMATCHED else known_method(method)
        self.requests.labels(method, route, str(status)).inc()
        self.latency.labels(method, route).observe(seconds)

    def watch(self, count: Callable[[], Counted]) -> None:
        self.registry.register(Jobs(count))

    def text(self) -> bytes:
        return generate_latest(self.registry)
