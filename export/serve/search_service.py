"""What a server does with a request, whatever protocol it came by."""

import asyncio
import collections
import hmac
import ipaddress
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from export.serve.batcher import Batcher, Job
from export.serve.loaded_version import DEFAULT_SIGNATURE, LoadedVersion
from export.serve.logs import event
from export.serve.metrics import Metrics
from export.serve.model_store import ModelStore
from export.serve.server_config import ServerConfig
from export.serve.service_error import Code, ServiceError
from export.serve.validation import check_inputs, invalid

Inputs = dict[str, np.ndarray]
# What is larger is read and written on a thread: a megabyte takes milliseconds in which nobody else is served.
INLINE_BYTES = 2**16


class SearchService:
    """Admission, checks, batching, time limits and accounts.

    Args:
        config: The server's settings.
        store: The versions.
        metrics: The accounts.
    """

    def __init__(self, config: ServerConfig, store: ModelStore, metrics: Metrics) -> None:
        self.config = config
        self.store = store
        self.metrics = metrics
        self.draining = False
        self._batcher = Batcher(
            config.workers, config.max_batch, config.max_batch_images, config.max_request_pixels, metrics
        )
        self._in_flight = 0
        # Of HTTP, by address.
        self.connections: collections.Counter[str] = collections.Counter()

    @property
    def ready(self) -> bool:
        """Whether new requests are welcome."""
        return self.store.current is not None and not self.draining

    async def predict(
        self,
        name: str,
        number: int | None,
        signature: str | None,
        read: Callable[[LoadedVersion, str], Inputs],
        timeout: float | None = None,
        record: dict[str, object] | None = None,
        wanted: Iterable[str] = (),
        where: Any = None,
        offset: int = 0,
    ) -> tuple[dict[str, np.ndarray], LoadedVersion, str]:
        """Computes a signature.

        Args:
            name: The model's name.
            number: The version, the newest by default.
            signature: The signature, `serving_default` by default.
            read: Makes the input arrays once version and signature are known.
            timeout: Seconds the client waits, where it says so.
            record: Gets what the log should say about the request.
            wanted: Names of outputs; all by default.
            where: A filter on the items that a search finds; see `export.where.where_mask`.
            offset: Nearest items that a search leaves out.

        Returns:
            The outputs, the version and the signature that made them.

        Raises:
            ServiceError: Anything else than a result.
        """
        signature = signature or DEFAULT_SIGNATURE
        with self.admitted(), self.store.lease(name, number) as version:
            if record is not None:
                record |= {"version": version.number, "signature": signature[:100]}
            if signature not in version.specs:
                known = ", ".join(sorted(version.specs))
                raise invalid(f"There is no signature {signature[:100]!r}. The model has: {known}")
            inputs, k, pixels = check_inputs(version, signature, read(version, signature), self.config)
            rows = len(next(iter(inputs.values())))
            if record is not None:
                record |= {"rows": rows, "k": k}
            if where is not None or offset:
                k = self._deepest(signature, rows, k, offset)
            limit = self.config.timeout if timeout is None else min(timeout, self.config.timeout)
            try:
                async with asyncio.timeout(limit):
                    if where is None:
                        outputs = await self._run(version, signature, inputs, k, pixels)
                    else:
                        assert k is not None
                        outputs = await self._search_where(version, inputs, k, pixels, where)
            except TimeoutError:
                raise ServiceError(
                    Code.DEADLINE_EXCEEDED,
                    f"The search did not finish within {limit:g} s. Send fewer rows, or try later",
                ) from None
            self.metrics.rows.labels(signature).inc(rows)
            if offset:
                outputs = {name: values[:, offset:] for name, values in outputs.items()}
            outputs = _chosen(outputs, wanted)
            size = sum(map(answer_bytes, outputs.values()))
            if size > self.config.max_answer_bytes:
                raise invalid(
                    f"The answer would have {size} bytes, and {self.config.max_answer_bytes} is the most. Send fewer "
                    "rows, lower k, or name the outputs that you need"
                )
            return outputs, version, signature

    async def _run(
        self, version: LoadedVersion, signature: str, inputs: Inputs, k: int | None, pixels: int
    ) -> dict[str, np.ndarray]:
        future: asyncio.Future[dict[str, np.ndarray]] = asyncio.get_running_loop().create_future()
        return await self._batcher.run(Job(version, signature, inputs, k, pixels, future))

    async def _search_where(
        self, version: LoadedVersion, inputs: Inputs, k: int, pixels: int, where: Any
    ) -> dict[str, np.ndarray]:
        """The outputs of a search among the items that a filter keeps."""
        ((name, rows),) = inputs.items()
        if name != "embeddings":
            signature = "embed_bytes" if name == "image_bytes" else "embed_images"
            rows = (await self._run(version, signature, inputs, None, pixels))["embeddings"]
        try:
            return await self._batcher.call(version.model.search_where, rows, k, where)
        except ValueError as error:
            raise invalid(str(error)) from None

    def _deepest(self, signature: str, rows: int, k: int | None, offset: int) -> int:
        """The number of neighbors that are found where the first `offset` of them are left out."""
        if k is None:
            raise invalid(f"'where' and 'offset' are for searches. Received: signature {signature!r}")
        if isinstance(offset, bool) or not isinstance(offset, int) or not offset >= 0:
            raise invalid(f"'offset' must be 0 or a positive whole number. Received: {str(offset)[:50]}")
        if k + offset > self.config.max_k or rows * (k + offset) > self.config.max_results:
            raise invalid(
                f"A search may go {self.config.max_k} neighbors deep, and {self.config.max_results} for all rows "
                f"together. Received: {rows} rows with k={k} and offset={str(offset)[:50]}"
            )
        return k + offset

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Counts a request in, or refuses it where there are too many."""
        if self._in_flight >= self.config.max_concurrency:
            raise ServiceError(
                Code.RESOURCE_EXHAUSTED,
                f"{self._in_flight} requests are being worked on, the most this server takes. Try again later",
            )
        self._in_flight += 1
        self.metrics.in_flight.set(self._in_flight)
        try:
            yield
        finally:
            self._in_flight -= 1
            self.metrics.in_flight.set(self._in_flight)

    def authorize(self, header: str | None) -> None:
        """Checks an Authorization header, where the server has a token.

        Raises:
            ServiceError: The token is missing or wrong.
        """
        if self.config.token is None:
            return
        scheme, _, token = (header or "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(token.strip().encode(), self.config.token.encode()):
            raise ServiceError(Code.UNAUTHENTICATED, "This server wants the header 'Authorization: Bearer TOKEN'")

    def check_host(self, host: str | None) -> None:
        """Checks a Host header, where the server has no token.

        A page of a stranger's can give its own name this machine's address, and then read what a browser here is
        answered (DNS rebinding). It cannot use an address, or a name that it does not own.

        Raises:
            ServiceError: The header names another host.
        """
        if self.config.token is not None or host is None:
            return
        name = host.strip().lower()
        name = name[1 : name.find("]")] if name.startswith("[") else name.partition(":")[0]
        if name in ("localhost", self.config.host.lower(), *map(str.lower, self.config.allow_host)):
            return
        try:
            ipaddress.ip_address(name)
        except ValueError:
            raise ServiceError(
                Code.FORBIDDEN,
                f"This server is not known as {name[:100]!r}. Start it with --allow-host {name[:100]}, or with a token",
            ) from None

    def check_connections(self, address: str) -> None:
        """Refuses who has, or shares in, too many connections.

        Raises:
            ServiceError: So it is.
        """
        if self.too_many_connections(address):
            raise ServiceError(
                Code.UNAVAILABLE,
                f"{self.connections.total()} connections are open, {self.connections[address]} of them from your "
                "address: more than this server takes. Close some, and try again",
            )

    def too_many_connections(self, address: str) -> bool:
        """Whether there are more connections than the server takes, of all clients or of one."""
        return (
            self.connections.total() > self.config.max_connections
            or self.connections[address] > self.config.max_connections_per_address
        )

    def account(
        self, protocol: str, method: str, code: str, start: float, record: dict[str, object], error: str | None = None
    ) -> None:
        """Counts and logs an answer."""
        seconds = time.perf_counter() - start
        self.metrics.requests.labels(protocol, method, code).inc()
        self.metrics.latency.labels(protocol, method).observe(seconds)
        fields: dict[str, Any] = {
            "protocol": protocol,
            "method": method,
            "code": code,
            "ms": round(1000 * seconds, 2),
            **record,
        }
        if error is not None:
            fields["error"] = error
        event("request", logging.INFO, **fields)

    def close(self) -> None:
        """Ends the threads."""
        self._batcher.close()


def answer_bytes(values: np.ndarray) -> int:
    """About what an output takes in an answer."""
    if values.dtype != object:
        return int(values.nbytes)
    return sum(len(value) + 4 for value in values.ravel().tolist())


async def off_loop(size: int, function: Callable[..., Any], *arguments: Any) -> Any:
    """Calls a function, on a thread where `size` bytes would hold up the event loop."""
    if size <= INLINE_BYTES:
        return function(*arguments)
    return await asyncio.get_running_loop().run_in_executor(None, function, *arguments)


def _chosen(outputs: dict[str, np.ndarray], wanted: Iterable[str]) -> dict[str, np.ndarray]:
    """The outputs that are wanted, each once."""
    names = list(dict.fromkeys(wanted)) or list(outputs)
    unknown = next((name for name in names if name not in outputs), None)
    if unknown is not None:
        raise invalid(f"There is no output {unknown[:100]!r}. The signature has: {', '.join(outputs)}")
    return {name: outputs[name] for name in names}
