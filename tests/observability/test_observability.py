"""Logs, metrics and traces of real processes: what joins them, what they say, and what they never say."""

import gzip
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import psutil
import pytest
import yaml
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from expunge.api.metrics import DatabaseCounts, Metrics
from expunge.embedded.servers import find_free_port
from expunge.store import db, keys, logs
from expunge.worker import metrics
from tests.support.cluster import Fleet, fleet, until

__all__ = ["fleet"]
ROOT = Path(__file__).parents[2]
OPS = ROOT / "ops"
SECRETIVE = {
    "concepts": [{"name": "zorblax the unseen", "target": "quibbly meadow"}],
    "labels": {"ticket": "hush-4711"},
    "method": "uce",
}
WORDS = ("zorblax", "quibbly", "hush-4711", "unseen")


class Service:
    """The whole service as processes of its own, and one key's client."""

    def __init__(self, fleet: Fleet, **environment: str) -> None:
        self.fleet, port = fleet, find_free_port()
        self.environment = environment
        with db.transaction(fleet.url) as session:
            self.key = keys.create(
                session, fleet.settings.secret.get_secret_value(), fleet.tenant_id, name="test"
            )[1]
        self.client = httpx.Client(
            base_url=f"http://127.0.0.1:{port}", headers={"Authorization": f"Bearer {self.key}"}, timeout=30
        )
        fleet.start("expunge.api", "--port", str(port), **self.environment)
        fleet.start("expunge.worker.loops", **self.environment)
        fleet.worker(**self.environment)
        until(self.ready)

    def ready(self) -> bool:
        try:
            return self.client.get("/readyz").status_code == 200
        except httpx.TransportError:
            return False

    def run(self, spec: dict[str, object], **headers: str) -> dict:
        """A job, ended."""
        answer = self.client.post("/jobs/erase", json=spec, headers=headers)
        assert answer.status_code == 202, answer.text
        job = answer.json()
        until(lambda: self.client.get(f"/jobs/{job['id']}").json()["status"] in ("succeeded", "failed"), 180)
        return self.client.get(f"/jobs/{job['id']}").json()

    def lines(self) -> list[str]:
        return [
            line
            for file in sorted(self.fleet.folder.glob("process-*.log"))
            for line in file.read_text().splitlines()
        ]


@pytest.fixture
def service(fleet: Fleet) -> Iterator[Callable[..., Service]]:
    """service(NAME=value...): started with these variables."""
    made = list[Service]()

    def start(**environment: str) -> Service:
        made.append(Service(fleet, **environment))
        return made[-1]

    yield start
    for each in made:
        each.client.close()


def records(lines: list[str]) -> list[dict]:
    return [json.loads(line) for line in lines if line.startswith("{")]  # Celery greets in plain words


class TestLogs:
    def test_a_careless_runner_s_words_leave_as_hashes_only(self, service, fleet):
        running = service(EXPUNGE_RUNNER="tests.support.runners.leaky:run")
        job = running.run(SECRETIVE)
        assert job["error"]["code"] == "internal_error"
        found = records(running.lines())
        (failed,) = [record for record in found if record["event"] == "job_failed"]
        assert "RuntimeError" in failed["exception"]
        assert "KeyError" in failed["exception"]
        hashed = logs.fingerprint(fleet.settings, "zorblax the unseen")
        assert hashed in failed["exception"]
        (created,) = [record for record in found if record["event"] == "job_created"]
        assert created["concepts"] == [hashed]
        assert [record for record in found if record.get("logger") == "library" and hashed in record["event"]]
        assert [record for record in found if record.get("logger") == "py.warnings"]
        self.check_secrets(running, WORDS)

    def test_the_operator_may_ask_for_the_words(self, service):
        running = service(EXPUNGE_RUNNER="tests.support.runners.leaky:run", EXPUNGE_LOG_CONCEPTS="true")
        running.run(SECRETIVE)
        (created,) = [record for record in records(running.lines()) if record["event"] == "job_created"]
        assert created["concepts"] == ["zorblax the unseen"]
        self.check_secrets(running, ())

    def test_a_whole_real_job_and_its_download_leave_no_word_no_key_and_no_signature(self, service):
        running = service(EXPUNGE_RUNNER="", EXPUNGE_MODELS='{"emoji": "bundled:emoji"}')
        job = running.run(
            {
                **SECRETIVE,
                "concepts": [{"name": "trumpet", "target": "teapot"}],
                "evaluation": {"enabled": False},
            }
        )
        assert job["status"] == "succeeded", job["error"]
        running.client.get("/jobs", params={"label": "ticket:hush-4711"})
        url = running.client.post(f"/artifacts/{job['artifacts'][0]['id']}/link").json()["url"]
        assert httpx.get(url).status_code == 200
        assert httpx.get(url + "0").status_code == 403
        signature = url.split("sig=")[1]
        self.check_secrets(running, ("trumpet", "teapot", "hush-4711", signature, signature[:32]))

    def check_secrets(self, running: Service, words: tuple[str, ...]) -> None:
        """No line of any process, PostgreSQL's and Redis's included, holds these words, the key, or what
        opens the service's doors.
        """
        settings = running.fleet.settings
        passwords = [
            re.search(r":([^:@/]+)@", str(url.get_secret_value()))[1]
            for url in (settings.database_url, settings.redis_url)
        ]
        text = "\n".join(running.lines()).lower()
        assert '"event": "request"' in text
        assert '"event": "job_started"' in text
        for word in (*words, running.key, running.key[:20], settings.secret.get_secret_value(), *passwords):
            assert word.lower() not in text, word

    def test_the_request_that_made_a_job_joins_its_lines_in_every_process(self, service):
        running = service()
        job = running.client.post(
            "/jobs/erase", json=SECRETIVE, headers={"X-Request-ID": "asked-by-the-test"}
        ).json()
        until(lambda: any("job_ended" in line for line in running.lines()))
        mine = [
            record
            for record in records(running.lines())
            if record.get("job_id") == job["id"] and record["service"] == "worker"
        ]
        # A second message for what runs already
        mine = [record for record in mine if record["event"] != "no_job_due"]
        assert {record["event"] for record in mine} >= {"job_started", "job_failed", "job_ended"}
        assert {(record["request_id"], record["attempt"], record["fence"]) for record in mine} == {
            ("asked-by-the-test", n, n) for n in (1, 2)
        }
        services = {
            record["service"]
            for record in records(running.lines())
            if record.get("request_id") == "asked-by-the-test"
        }
        assert services == {"api", "worker"}


def scrape(port: int) -> str:
    return httpx.get(f"http://127.0.0.1:{port}/metrics").text


def value(text: str, name: str) -> float:
    """The sum of a metric's samples."""
    return sum(
        float(line.rsplit(" ", 1)[1])
        for line in text.splitlines()
        if re.match(rf"{re.escape(name)}[ {{]", line)
    )


class TestMetrics:
    def test_workers_and_loops_count_what_happens_also_in_children_that_are_gone(self, fleet):
        ports = {"worker": find_free_port(), "loops": find_free_port()}
        fleet.start("expunge.worker.loops", EXPUNGE_METRICS_PORT=str(ports["loops"]))
        worker = fleet.worker(EXPUNGE_METRICS_PORT=str(ports["worker"]))
        broken = fleet.post(hold=4)
        fleet.until_step(broken, 4)
        worker.children()[0].kill()
        fleet.go.touch()
        fleet.until_status(broken, "succeeded")
        fleet.until_status(fleet.post(raises=2), "failed")
        until(
            lambda: (
                value(scrape(ports["worker"]), 'expunge_attempts_total{kind="erase",outcome="failed"}') == 1
            )
        )
        text = scrape(ports["worker"])
        assert value(text, 'expunge_attempts_total{kind="erase",outcome="succeeded"}') == 1
        assert value(text, "expunge_step_seconds_count") >= 12
        assert value(text, "expunge_publish_seconds_count") == 1
        assert value(text, "expunge_checkpoint_seconds_count") >= 4
        assert "expunge_gpu_memory_bytes{" not in text, "this runner loads no torch"
        text = scrape(ports["loops"])
        assert value(text, "expunge_lease_expiries_total") == 1
        assert value(text, "expunge_redispatches_total") >= 2

    def test_without_the_setting_nothing_listens(self, fleet):
        loops = fleet.loops()
        until(lambda: "loop_leading" in (fleet.folder / "process-0.log").read_text())
        assert not [c for c in psutil.Process(loops.pid).net_connections() if c.status == psutil.CONN_LISTEN]


def exported() -> set[str]:
    """Every name under which api, worker or loops export a sample."""

    api = Metrics()
    api.register_database(lambda: DatabaseCounts({"queued": 1}, 0.0, 0, (False, 0), {"ready": 1}, 0))
    api.observe("GET", "/", 200, 0.1)
    names = set[str]()
    for registry in (api.registry, metrics.registry):
        for family in registry.collect():
            names |= {family.name, f"{family.name}_total"} if family.type == "counter" else {family.name}
            names |= (
                {f"{family.name}_{part}" for part in ("bucket", "sum", "count")}
                if family.type == "histogram"
                else set()
            )
    return names


class TestOps:
    def test_every_metric_that_an_alert_or_the_dashboard_names_is_exported(self):
        rules = yaml.safe_load((OPS / "alerts.yml").read_text())["groups"][0]["rules"]
        panels = json.loads((OPS / "grafana-dashboard.json").read_text())["panels"]
        asked = [rule["expr"] for rule in rules] + [
            target["expr"] for panel in panels for target in panel["targets"]
        ]
        named = {name for expression in asked for name in re.findall(r"\bexpunge_\w+", expression)}
        assert len(named) > 10
        assert named <= exported()

    def test_every_metric_is_on_the_dashboard_or_under_an_alert(self):
        text = (OPS / "alerts.yml").read_text() + (OPS / "grafana-dashboard.json").read_text()
        families = {re.sub(r"_(total|bucket|sum|count)$", "", name) for name in exported()}
        assert families - {"expunge_event_streams"} <= {name for name in families if name in text}

    def test_alerts_say_what_to_do_and_labels_exist(self):
        rules = yaml.safe_load((OPS / "alerts.yml").read_text())["groups"][0]["rules"]
        assert all(
            {"summary", "action"} <= set(rule["annotations"]) and rule["labels"]["severity"] for rule in rules
        )
        scraped = yaml.safe_load((OPS / "prometheus.yml").read_text())
        assert scraped["rule_files"] == ["alerts.yml"]
        compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
        hosts = {
            target.split(":")[0]
            for job in scraped["scrape_configs"]
            for target in job["static_configs"][0]["targets"]
        }
        assert hosts <= set(compose)


@pytest.fixture
def collector() -> Iterator[tuple[str, list[tuple[str, Span]]]]:
    """(address, spans with their service's name): whoever is told of an OTLP/HTTP endpoint sends its spans
    here.
    """
    spans = list[tuple[str, Span]]()

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            body = gzip.decompress(body) if self.headers.get("content-encoding") == "gzip" else body
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                (name,) = [
                    a.value.string_value for a in resource.resource.attributes if a.key == "service.name"
                ]
                spans.extend((name, span) for scope in resource.scope_spans for span in scope.spans)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", spans
    server.shutdown()
    thread.join()
    server.server_close()


class TestTraces:
    def test_one_trace_leads_from_the_request_to_the_worker_s_steps(self, service, collector):
        address, spans = collector
        running = service(
            OTEL_EXPORTER_OTLP_ENDPOINT=address,
            OTEL_BSP_SCHEDULE_DELAY="200",
            EXPUNGE_RUNNER="tests.support.runners.traced:run",
        )
        job = running.run(SECRETIVE, traceparent=f"00-{'ab' * 16}-{'cd' * 8}-01")
        assert job["status"] == "succeeded", job["error"]
        url = running.client.post(f"/artifacts/{job['artifacts'][0]['id']}/link").json()["url"]
        assert httpx.get(url).status_code == 200

        def named(name: str) -> list[Span]:
            return [span for _, span in spans if span.name == name and span.trace_id.hex() == "ab" * 16]

        until(
            lambda: (
                named("attempt")
                and len(named("step")) == 2
                and named("phase erase")
                and named("POST /jobs/erase")
            )
        )
        (asked,), (attempt,), (phase,) = named("POST /jobs/erase"), named("attempt"), named("phase erase")
        assert asked.parent_span_id.hex() == "cd" * 8
        assert attempt.parent_span_id == asked.span_id
        assert phase.parent_span_id == attempt.span_id
        (loading,) = named("phase load")
        assert {step.parent_span_id for step in named("step")} == {phase.span_id, loading.span_id}
        assert {a.key: a.value for a in attempt.attributes}["job.id"].string_value == job["id"]
        assert {a.key: a.value for a in attempt.attributes}["job.outcome"].string_value == "succeeded"
        assert {name for name, _ in spans} >= {"expunge-api", "expunge-worker"}
        until(
            lambda: [s for name, s in spans if name == "expunge-api" and s.name.startswith("GET /artifacts")]
        )
        everything = b"".join(span.SerializeToString() for _, span in spans).lower()
        assert b"select" in everything, "statements are there"
        for word in (*WORDS, running.key, url.split("sig=")[1]):
            assert word.lower().encode() not in everything, word
        lines = [record for record in records(running.lines()) if record.get("trace_id") == "ab" * 16]
        assert {"job_created", "job_started", "job_succeeded"} <= {record["event"] for record in lines}

    def test_a_collector_that_is_away_costs_no_job(self, service):
        began = time.monotonic()
        running = service(
            OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9",
            EXPUNGE_RUNNER="tests.support.runners.traced:run",
        )
        assert running.run(SECRETIVE)["status"] == "succeeded"
        assert time.monotonic() - began < 120
