"""MET-1: metrics, by the real clients."""

from __future__ import annotations

import importlib
import sys
import urllib.request
from typing import Any

import pytest

import nativemem
from nativemem.backends.binding import Binding
from nativemem.errors import ConfigError, NativeUnavailable
from nativemem.observe.metrics import METRICS, label_of
from nativemem.observe.opentelemetry import instrument
from nativemem.observe.prometheus import publish

from .helpers import native, run

prometheus = pytest.importorskip("prometheus_client")


def scrape(registry: Any) -> dict[str, float]:
    """What an HTTP server shows, as Prometheus reads it."""
    server, thread = prometheus.start_http_server(0, "127.0.0.1", registry)
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/metrics", timeout=300) as answer:
            text = answer.read().decode()
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    found: dict[str, float] = {}
    for family in importlib.import_module("prometheus_client.parser").text_string_to_metric_families(text):
        for sample in family.samples:
            key = sample.name + "".join(f"{{{k}={v}}}" for k, v in sorted(sample.labels.items()))
            assert key not in found, "a series stands there twice"
            found[key] = sample.value
    return found


def test_a_scrape(nm: Binding) -> None:
    """MET-1: by owner; those of one name are added up, and so are those without one."""
    registry = prometheus.CollectorRegistry()
    service = nm.Budget(10_000, "scraped")
    twins = [nm.Budget(1000, "twin", service) for _ in range(2)]
    nameless = [nm.Budget(100, None, service) for _ in range(3)]
    with publish(registry) as publisher:
        for budget in (*twins, *nameless):
            budget.try_reserve(50)
        twins[0].try_reserve(900)
        twins[0].try_reserve(900)
        twins[1].release(50)
        publisher.update()
        found = scrape(registry)
        with pytest.raises(ValueError, match="uplicated"):
            publish(registry)

    def of(what: str, owner: str) -> float:
        return found[f"nativemem_owner_{what}{{owner={owner}}}"]

    assert [of("used_bytes", f"scraped{more}") for more in ("", "/twin", "/*")] == [1100, 950, 150]
    assert (of("peak_bytes", "scraped"), of("peak_bytes", "scraped/twin")) == (1150, 1000)
    assert (of("limit_bytes", "scraped/twin"), of("limit_bytes", "scraped/*")) == (2000, 300)
    assert (of("denials_total", "scraped/twin"), of("pressure", "scraped/twin")) == (1, 2)
    if sys.platform == "linux":
        assert 1 << 20 < found["nativemem_resident_bytes"] <= found["nativemem_resident_peak_bytes"]
    assert not list(registry.collect())
    publisher.close()


def test_names_and_units() -> None:
    """MET-1: as Prometheus and OpenTelemetry want them."""
    for metric in METRICS:
        assert metric.name.endswith("_total") == metric.counts
        assert metric.name.endswith("_bytes") == (metric.unit == "By")
        assert metric.dotted.startswith("nativemem.") and metric.help.endswith(".")
    assert (
        len({metric.name for metric in METRICS}) == len({metric.dotted for metric in METRICS}) == len(METRICS) == 14
    )
    assert [label_of(path) for path in ("a", "a/budget 7", "budget 3/b", "budget x")] == [
        "a",
        "a/*",
        "*/b",
        "budget x",
    ]


@native
def test_the_engine_and_two_workers() -> None:
    """MET-1: in the client's multiprocess mode, with a scrape of what two processes wrote, of which one ends."""
    run("""
        import os, subprocess, sys, tempfile, urllib.request
        WORKER = '''
        import sys, nativemem
        from nativemem.observe.prometheus import publish
        nativemem.install(limit="1 GiB")
        publisher = publish()
        n = int(sys.argv[1])
        cache = nativemem.Budget(1 << 20, "cache")
        gone = nativemem.Budget(1 << 20, "gone")
        gone.try_reserve(7)
        cache.try_reserve(2 << 20); cache.try_reserve(n); cache.try_reserve(1)
        publisher.update()
        del gone
        cache.release(1); cache.try_reserve(3 << 20)
        publisher.update()
        publisher.update()
        print("ready", flush=True)
        sys.stdin.read()
        '''
        with tempfile.TemporaryDirectory() as folder:
            os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
            workers = []
            for n in (1000, 5000):
                command = [sys.executable, "-c", __import__("textwrap").dedent(WORKER), str(n)]
                workers.append(subprocess.Popen(command, stdin=-1, stdout=-1, text=True))
            assert [worker.stdout.readline() for worker in workers] == ["ready\\n"] * 2
            from prometheus_client import CollectorRegistry, multiprocess, start_http_server
            registry = CollectorRegistry()
            multiprocess.MultiProcessCollector(registry)
            server, thread = start_http_server(0, "127.0.0.1", registry)
            def scrape():
                with urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/metrics") as answer:
                    lines = answer.read().decode().splitlines()
                return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if line[0] != "#"}
            def of(name, worker, owner="cache"):
                return f'nativemem_owner_{name}{{owner="{owner}",pid="{worker.pid}"}}'
            found = scrape()
            for worker, n in zip(workers, (1000, 5000)):
                assert found[of("used_bytes", worker)] == n and found[of("peak_bytes", worker)] == n + 1
                assert found[of("limit_bytes", worker)] == 1 << 20 and found[of("pressure", worker)] == 0
                assert found[of("used_bytes", worker, "gone")] == 0
                held, limit = (found[f'nativemem_{m}_bytes{{pid="{worker.pid}"}}'] for m in ("held", "limit"))
                assert 0 < held < limit == 1 << 30
                assert 0 <= found[f'nativemem_fragmentation_ratio{{pid="{worker.pid}"}}'] < 1
            assert found['nativemem_owner_denials_total{owner="cache"}'] == 4, "of both"
            assert found["nativemem_allocations_total"] > 0
            workers[0].communicate()
            multiprocess.mark_process_dead(workers[0].pid)
            after = scrape()
            assert of("used_bytes", workers[0]) not in after and after[of("used_bytes", workers[1])] == 5000
            assert after['nativemem_owner_denials_total{owner="cache"}'] == 4, "what was counted stays"
            workers[1].communicate()
            server.shutdown(); server.server_close(); thread.join()
    """)


@native
def test_a_thread_writes_them_where_it_was_asked_for() -> None:
    """MET-1: in a forked child as well."""
    run("""
        import glob, os, sys, tempfile, threading, time
        with tempfile.TemporaryDirectory() as folder:
            os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
            import nativemem
            from prometheus_client import CollectorRegistry, multiprocess
            from nativemem.observe.prometheus import publish
            registry = CollectorRegistry()
            multiprocess.MultiProcessCollector(registry)
            def wait_for(pid, used):
                end = time.monotonic() + 20
                name, labels = "nativemem_owner_used_bytes", {"owner": "cache", "pid": str(pid)}
                while registry.get_sample_value(name, labels) != used:
                    assert time.monotonic() < end
            cache = nativemem.Budget(1000, "cache")
            with publish(interval=0.001):
                cache.try_reserve(10)
                wait_for(os.getpid(), 10)
                child = os.fork()
                if child == 0:
                    cache.try_reserve(5)
                    wait_for(os.getpid(), 15)
                    os._exit(0)
                assert os.waitpid(child, 0)[1] == 0
            assert threading.active_count() == 1
    """)


def test_opentelemetry(nm: Binding) -> None:
    """MET-1: observable gauges and counters, as a reader of the SDK collects them."""
    export = pytest.importorskip("opentelemetry.sdk.metrics.export")
    sdk = importlib.import_module("opentelemetry.sdk.metrics")
    reader = export.InMemoryMetricReader()
    provider = sdk.MeterProvider([reader])
    instrument(provider)
    budget = nm.Budget(1000, "metered")
    budget.try_reserve(900)
    budget.try_reserve(200)

    def collect() -> dict[str, tuple[str, float]]:
        (scope,) = reader.get_metrics_data().resource_metrics[0].scope_metrics
        assert (scope.scope.name, scope.scope.version) == ("nativemem", nativemem.__version__)
        return {
            metric.name: (metric.unit, point.value)
            for metric in scope.metrics
            for point in metric.data.data_points
            if point.attributes.get("owner", "metered") == "metered"
        }

    found = collect()
    assert {
        name: found[f"nativemem.owner.{name}"] for name in ("used", "peak", "limit", "denials", "pressure")
    } == {
        "used": ("By", 900),
        "peak": ("By", 900),
        "limit": ("By", 1000),
        "denials": ("{request}", 1),
        "pressure": ("{level}", 1),
    }
    budget.release(800)
    assert collect()["nativemem.owner.used"] == ("By", 100)
    provider.shutdown()


@pytest.mark.parametrize("interval", [0, -1, float("inf"), "1"])
def test_what_is_no_interval(interval: Any) -> None:
    """MET-1"""
    with pytest.raises(ConfigError, match="prometheus.interval"):
        publish(prometheus.CollectorRegistry(), interval)


@pytest.mark.parametrize(
    ("call", "module", "extra"),
    [(publish, "prometheus_client", "prometheus"), (instrument, "opentelemetry.metrics", "otel")],
    ids=["prometheus", "otel"],
)
def test_without_the_client(monkeypatch: pytest.MonkeyPatch, call: Any, module: str, extra: str) -> None:
    """MET-1: the error names the extra."""
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(NativeUnavailable, match="is not installed") as refused:
        call()
    assert refused.value.suggestion == f"pip install 'nativemem[{extra}]'"
