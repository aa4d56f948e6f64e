"""Prometheus: requests as they happen, jobs as the database has them when asked."""

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

Counts = Callable[[], tuple[dict[str, int], float, int, tuple[bool, int]]]
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Jobs(Collector):
    """Jobs by status, the age of the oldest one waiting, artifacts that are damaged, pauses."""

    def __init__(self, count: Counts) -> None:
        self.count = count

    def collect(self) -> Iterator[Metric]:
        by_status, oldest, corrupt, (paused, tenants) = self.count()
        jobs = GaugeMetricFamily("expunge_jobs", "Jobs by status.", labels=["status"])
        for status, n in by_status.items():
            jobs.add_metric([status], n)
        yield jobs
        yield GaugeMetricFamily("expunge_queue_age_seconds", "Age of the oldest queued job.", value=oldest)
        yield GaugeMetricFamily("expunge_corrupt_artifacts", "Artifacts known to be damaged or gone.", value=corrupt)
        yield GaugeMetricFamily("expunge_queue_paused", "1 while the operator has paused the whole queue.", value=paused)
        yield GaugeMetricFamily("expunge_paused_tenants", "Tenants that have paused their own queue.", value=tenants)


class Metrics:
    """The counters of one app."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        labels = ("method", "route", "status")
        self.requests = Counter("expunge_http_requests_total", "Requests answered.", labels, registry=self.registry)
        self.latency = Histogram(
            "expunge_http_request_seconds", "Time to answer.", ("method", "route"), buckets=BUCKETS, registry=self.registry
        )
        self.streams = Counter("expunge_event_streams_total", "Event streams opened.", registry=self.registry)
        self.corrupt = Counter(
            "expunge_artifacts_corrupt_total", "Downloads refused because the bytes did not match.", registry=self.registry
        )
        self.unheard = Counter("expunge_bell_failures_total", "Wake-ups that did not reach the broker.", registry=self.registry)
        self.limited = Counter("expunge_rate_limited_total", "Requests refused by a rate limit.", ("policy",), registry=self.registry)
        self.unchecked = Counter(
            "expunge_rate_limit_failures_total", "Times that Redis did not answer and requests went uncounted.", registry=self.registry
        )

    def observe(self, method: str, route: str, status: int, seconds: float) -> None:
        self.requests.labels(method, route, str(status)).inc()
        self.latency.labels(method, route).observe(seconds)

    def watch(self, count: Counts) -> None:
        self.registry.register(Jobs(count))

    def text(self) -> bytes:
        return generate_latest(self.registry)
