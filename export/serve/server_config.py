"""Everything a server can be told."""

import dataclasses
import pathlib


@dataclasses.dataclass(frozen=True)
class ServerConfig:
    """Settings of a server; the command line's help says what each means.

    Args:
        model_dir: Model directory or version directory.
        name: The model's name in URLs; that of the manifest by default.
        host: Address to listen on.
        rest_port: Port of HTTP; 0 takes a free one.
        grpc_port: Port of gRPC; 0 takes a free one, None turns gRPC off.
        token: Bearer token that requests must carry.
        max_body_bytes: Largest request.
        max_pixels: Most pixels of one image, all frames of a GIF counted.
        max_request_pixels: Most pixels of all images of a request.
        max_images: Most images of a request.
        max_queries: Most embeddings of a request.
        max_k: Most neighbors per query.
        max_results: Most neighbors per request, all queries together.
        max_concurrency: Requests being worked on or waiting; more are refused with 429.
        max_batch: Most rows of a batch made of several requests.
        max_batch_images: The same for images, where that is fewer.
        workers: Batches computed at the same time.
        timeout: Seconds from a request's arrival to its answer.
        read_timeout: Seconds for a client to send its headers, and again for its body.
        grace: Seconds that requests may take to finish at shutdown.
        poll: Seconds between looks for a new version; 0 never looks.
        drain: Seconds after SIGTERM in which readiness says 503 and requests are still served.
        verify: Whether every file of a version is compared with its checksum before it is served.
        max_answer_bytes: Largest answer.
        max_connections: Connections of HTTP; beyond, health checks alone are answered.
        max_connections_per_address: The same from one address.
        allow_host: Names beside addresses by which clients may call a server without a token.
        writable: Whether items can be added and deleted by requests.
        admin_token: Bearer token that requests which change items must carry; `token` by default.
        tls_cert: PEM file of the certificate and those that sign it; None serves without TLS, HTTP and gRPC alike.
        tls_key: PEM file of its private key; `tls_cert` holds it by default.
        page: Whether the search page and its gallery are served.
    """

    model_dir: pathlib.Path
    name: str | None = None
    host: str = "127.0.0.1"
    rest_port: int = 8501
    grpc_port: int | None = 8500
    token: str | None = None
    max_body_bytes: int = 16 * 2**20
    max_pixels: int = 2**24
    max_request_pixels: int = 2**26
    max_images: int = 64
    max_queries: int = 1024
    max_k: int = 1000
    max_results: int = 100_000
    max_concurrency: int = 256
    max_batch: int = 64
    # On a processor, larger batches of images were slower: an encoder's activations leave its caches (43 images/s in
    # batches of up to 64, 57 in batches of up to 8, MobileNetV2 on one core).
    max_batch_images: int = 8
    workers: int = 2
    timeout: float = 30.0
    read_timeout: float = 15.0
    grace: float = 20.0
    poll: float = 2.0
    drain: float = 0.0
    verify: bool = True
    max_answer_bytes: int = 64 * 2**20
    max_connections: int = 2048
    max_connections_per_address: int = 512
    allow_host: tuple[str, ...] = ()
    writable: bool = False
    admin_token: str | None = None
    tls_cert: pathlib.Path | None = None
    tls_key: pathlib.Path | None = None
    page: bool = True

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name in ("rest_port", "grpc_port"):
                if value is not None and not 0 <= value < 65536:
                    raise ValueError(f"`{field.name}` must lie in [0, 65535]. Received: {field.name}={value}")
            elif field.name in ("poll", "grace", "drain"):
                if value < 0:
                    raise ValueError(f"`{field.name}` must not be negative. Received: {field.name}={value}")
            elif isinstance(value, int | float) and not isinstance(value, bool) and value <= 0:
                raise ValueError(f"`{field.name}` must be positive. Received: {field.name}={value}")
        for name in ("token", "admin_token"):
            if getattr(self, name) == "":
                raise ValueError(f"`{name}` must not be empty")
        if self.admin_token is not None and not self.writable:
            raise ValueError("`admin_token` is for a server that takes changes: `writable` must be True")
        if self.tls_key is not None and self.tls_cert is None:
            raise ValueError(f"`tls_key` needs the certificate, `tls_cert`. Received: tls_key={self.tls_key}")
