"""What a server counts, as Prometheus reads it."""

import prometheus_client as prometheus

_MILLISECONDS = (1, 2, 3, 5, 7.5, 10, 15, 20, 30, 50, 75, 100, 150, 200, 300, 500, 1000, 2000, 5000)


class Metrics:
    """In a registry of its own, so that several servers may live in a process."""

    def __init__(self, sizes: tuple[int, ...]) -> None:
        self.registry = prometheus.CollectorRegistry()
        self.request = self._seconds("request", "From a message's arrival to its answer", ["transport"])
        self.queue = self._seconds("queue", "Waiting for a call of the policy")
        self.infer = self._seconds("infer", "One call of the policy, whatever its batch")
        self.batch = prometheus.Histogram(
            "lapa_batch_size", "Observations that share a call", buckets=sizes, registry=self.registry
        )
        self.errors = prometheus.Counter(
            "lapa_errors", "Requests that ended in an error", ["code"], registry=self.registry
        )
        self.connections = self._gauge("lapa_connections", "Websockets that are open")
        self.waiting = self._gauge("lapa_waiting", "Requests that wait for a call of the policy")
        self.ready = self._gauge("lapa_ready", "1 when warmed up and not shutting down")

    def text(self) -> tuple[bytes, str]:
        """The numbers, and their content type."""
        return prometheus.generate_latest(self.registry), prometheus.CONTENT_TYPE_LATEST

    def _seconds(self, name: str, text: str, labels: list[str] | None = None) -> prometheus.Histogram:
        edges = [edge / 1000 for edge in _MILLISECONDS]
        return prometheus.Histogram(
            f"lapa_{name}_seconds", text, labels or [], buckets=edges, registry=self.registry
        )

    def _gauge(self, name: str, text: str) -> prometheus.Gauge:
        return prometheus.Gauge(name, text, registry=self.registry)
