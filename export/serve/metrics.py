"""Prometheus metrics of a server."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

LATENCY = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
BATCH = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Metrics:
    """Counters of one server, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        labels = ("protocol", "method", "code")
        self.requests = Counter("export_requests", "Requests answered", labels, registry=self.registry)
        self.latency = Histogram(
            "export_request_seconds",
            "Time from a request's arrival to its answer",
            ("protocol", "method"),
            buckets=LATENCY,
            registry=self.registry,
        )
        self.rows = Counter("export_rows", "Images or embeddings searched", ("signature",), registry=self.registry)
        self.batch_rows = Histogram(
            "export_batch_rows", "Rows computed together", ("signature",), buckets=BATCH, registry=self.registry
        )
        self.compute = Histogram(
            "export_batch_seconds", "Time to compute a batch", ("signature",), buckets=LATENCY, registry=self.registry
        )
        self.in_flight = Gauge("export_requests_in_flight", "Requests worked on or waiting", registry=self.registry)
        self.version = Gauge("export_model_version", "Newest version that is served", registry=self.registry)
        self.gallery = Gauge("export_gallery_items", "Items in the gallery of that version", registry=self.registry)
        self.changes = Gauge("export_changes", "Items changed since that version was built", registry=self.registry)
        self.loads = Counter(
            "export_version_loads", "Versions loaded or failed to", ("result",), registry=self.registry
        )

    def render(self) -> bytes:
        """The metrics in Prometheus's text format."""
        return generate_latest(self.registry)
