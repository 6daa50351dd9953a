"""What a server counts, for Prometheus."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

BATCHES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """The figures of one server."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        labels = ["path", "status"]
        self._answers = Counter("unetseg_requests", "Answers", labels, registry=registry)
        self._seconds = Histogram(
            "unetseg_request_seconds", "From a request to its answer", ["path"], registry=registry
        )
        self.images = Counter("unetseg_images", "Images through the network", registry=registry)
        self.batches = Histogram(
            "unetseg_batch_images", "Images at once", buckets=BATCHES, registry=registry
        )

    def answered(self, path: str, status: int, seconds: float) -> None:
        """Note one answer; `path` is a pattern of few, such as /v2/models/{name}."""
        self._answers.labels(path, status).inc()
        self._seconds.labels(path).observe(seconds)

    def show(self, name: str, help_: str, value: Callable[[], float]) -> None:
        """Tell `value` whenever somebody asks."""
        Gauge(name, help_, registry=self._registry).set_function(value)

    def text(self) -> bytes:
        """All figures, in the text format of Prometheus."""
        return generate_latest(self._registry)
