"""What a server does with a request, whatever protocol it came by."""

import asyncio
import collections
import hmac
import ipaddress
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from export.changes import Change, embedding_space
from export.overlay import MOST_CHANGES, Overlay, items_gallery
from export.serve.batcher import Batcher, Job
from export.serve.loaded_version import DEFAULT_SIGNATURE, LoadedVersion
from export.serve.logs import event
from export.serve.metrics import Metrics
from export.serve.model_store import ModelStore
from export.serve.server_config import ServerConfig
from export.serve.service_error import Code, ServiceError
from export.serve.validation import check_inputs, invalid
from export.thumbnails import Thumbnails
from keras_dml.data.images.decoding import decode

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
                    if k is None or (where is None and not version.changed):
                        outputs = await self._run(version, signature, inputs, k, pixels)
                    else:
                        outputs = await self._search(version, inputs, k, pixels, where)
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

    async def _search(
        self, version: LoadedVersion, inputs: Inputs, k: int, pixels: int, where: Any
    ) -> dict[str, np.ndarray]:
        """The outputs of a search under a filter, or of a version with changes."""
        ((name, rows),) = inputs.items()
        if name != "embeddings":
            signature = "embed_bytes" if name == "image_bytes" else "embed_images"
            rows = (await self._run(version, signature, inputs, None, pixels))["embeddings"]
        try:
            return await self._batcher.call(version.search, rows, k, where)
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

    async def upsert(self, name: str, items: Sequence[Mapping[str, Any]]) -> int:
        """Adds items, or replaces those whose ids are there; on the disk, and found by searches, when it returns.

        Args:
            name: The model's name.
            items: Each with `id`, `metadata` for the gallery's columns, and `embedding`, `(d,)` floats, or `image`,
                an encoded image.

        Returns:
            The number of changes that no version holds yet.

        Raises:
            ServiceError: The server takes no changes, or an item does not fit.
        """
        with self.admitted(), self.store.lease(name) as version:
            overlay = self._writable(version)
            ids = [item["id"] for item in items]
            embeddings = [item.get("embedding") for item in items]
            dim = version.model.embedding_dim
            wrong = next((item for item in items if "embedding" in item and len(item["embedding"]) != dim), None)
            if wrong is not None:
                raise invalid(f"Item {wrong['id'][:100]!r}: 'embedding' must have {dim} numbers")
            pictures = [b""] * len(items)
            if any("image" in item for item in items):
                if "embed_bytes" not in version.specs:
                    raise invalid("This model was built without an encoder: send embeddings")
                places = [place for place, item in enumerate(items) if "image" in item]
                images: np.ndarray = np.empty(len(places), dtype=object)
                images[:] = [items[place]["image"] for place in places]
                inputs, _, pixels = check_inputs(version, "embed_bytes", {"image_bytes": images}, self.config)
                try:
                    async with asyncio.timeout(self.config.timeout):
                        outputs = await self._run(version, "embed_bytes", inputs, None, pixels)
                except TimeoutError:
                    raise ServiceError(Code.DEADLINE_EXCEEDED, "The images were not embedded in time") from None
                small = await self._batcher.call(_pictures, inputs["image_bytes"])
                for place, embedding, picture in zip(places, outputs["embeddings"], small, strict=True):
                    embeddings[place], pictures[place] = embedding, picture
            try:
                gallery = items_gallery(
                    version.gallery,
                    version.model.manifest["index"]["metric"],
                    ids,
                    np.stack([np.asarray(embedding, np.float32) for embedding in embeddings]),
                    [item["metadata"] for item in items],
                )
            except ValueError as error:
                raise invalid(str(error)) from None
            space = embedding_space(version.model.manifest)
            changes = [
                Change(name, gallery.embeddings[row], items[row]["metadata"], pictures[row], space)
                for row, name in enumerate(gallery.ids)
            ]
            return await self._write(version, overlay, changes)

    async def delete(self, name: str, ids: Sequence[str]) -> tuple[list[str], int]:
        """Deletes items; gone from the disk, and from searches, when it returns.

        Args:
            name: The model's name.
            ids: The items' ids.

        Returns:
            Those of the ids that there were, and the number of changes that no version holds yet.
        """
        with self.admitted(), self.store.lease(name) as version:
            overlay = self._writable(version)
            found = await self._batcher.call(lambda: [item for item in dict.fromkeys(ids) if overlay.holds(item)])
            return found, await self._write(version, overlay, [Change(item) for item in found])

    def _writable(self, version: LoadedVersion) -> Overlay:
        if not self.config.writable:
            raise ServiceError(Code.FORBIDDEN, "This server takes no changes. Start it with --writable")
        if version.overlay is None:
            raise ServiceError(Code.FORBIDDEN, "One version alone is served: changes belong to a model directory")
        if version.model.manifest.get("reranking"):
            raise ServiceError(
                Code.FORBIDDEN, "A model with a pair scorer takes no changes while it is served. Use keras-dml update"
            )
        return version.overlay

    async def _write(self, version: LoadedVersion, overlay: Overlay, changes: list[Change]) -> int:
        if len(overlay) + len(changes) > MOST_CHANGES:
            raise ServiceError(
                Code.RESOURCE_EXHAUSTED,
                f"{len(overlay)} changes wait for a version to hold them, and {MOST_CHANGES} is the most. "
                "Run keras-dml update on the model, then try again",
            )

        def write() -> int:
            if changes:
                overlay.log.append(changes)
                overlay.refresh()
            return len(overlay)

        try:
            waiting: int = await self._batcher.call(write)
        except (OSError, ValueError) as error:
            event("changes cannot be written", logging.ERROR, error=str(error))
            raise ServiceError(Code.UNAVAILABLE, f"The changes cannot be written: {error}") from None
        # A newer version may have been loaded meanwhile.
        current = self.store.current
        if current is not None and current is not version and current.overlay is not None:
            await self._batcher.call(current.overlay.refresh)
        self.metrics.changes.set(waiting)
        return waiting

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

    def authorize(self, header: str | None, write: bool = False) -> None:
        """Checks an Authorization header, where the server has a token.

        Args:
            header: The header.
            write: Whether the request changes items.

        Raises:
            ServiceError: The token is missing or wrong.
        """
        wanted, admin = self.config.token, self.config.admin_token
        if (wanted if admin is None or not write else admin) is None:
            return
        scheme, _, token = (header or "").partition(" ")
        given = token.strip().encode()
        accepted = [known for known in (admin, wanted if admin is None or not write else None) if known is not None]
        # All of them are compared, whatever the first says.
        fits = [hmac.compare_digest(given, known.encode()) for known in accepted]
        if scheme.lower() != "bearer" or not any(fits):
            which = "its administrator's TOKEN" if write and admin is not None else "TOKEN"
            raise ServiceError(Code.UNAUTHENTICATED, f"This server wants the header 'Authorization: Bearer {which}'")

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


def _pictures(contents: Iterable[bytes]) -> list[bytes]:
    """Small pictures of encoded images."""
    return [Thumbnails.encode(np.asarray(decode(content, 3))) for content in contents]


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
