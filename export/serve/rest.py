"""TensorFlow Serving's REST API, health, metrics and the search page, as a Starlette application."""

import asyncio
import importlib.resources
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import numpy as np
from google.protobuf import json_format
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from export.search_model import result_of
from export.serve import tensor_json
from export.serve.loaded_version import LoadedVersion
from export.serve.logs import event
from export.serve.search_service import SearchService, off_loop
from export.serve.service_error import Code, ServiceError
from export.serve.validation import invalid
from export.where import parse_where

Handler = Callable[[Request, dict[str, object]], Awaitable[Response]]
GALLERY_PAGE = 200
LARGEST_NUMBER = 3.4e38
SECURITY_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}
HEALTH = ("health", "ready")
WRITES = ("upsert", "delete")
PAGE_FILES = {"index.html": "text/html", "page.css": "text/css", "page.js": "text/javascript"}


def create_app(service: SearchService) -> Starlette:
    """The application.

    Args:
        service: Does the work.
    """
    rest = Rest(service)
    handlers: Any = {HTTPException: rest.http_error, 404: rest.http_error}
    return Starlette(routes=rest.routes(), exception_handlers=handlers)


class Rest:
    """The handlers of the REST API.

    Args:
        service: Does the work.
    """

    def __init__(self, service: SearchService) -> None:
        self._service = service
        self._pages = {
            name: importlib.resources.files("export.serve").joinpath("page", name).read_bytes() for name in PAGE_FILES
        }

    def routes(self) -> list[Route]:
        """All routes."""
        model = "/v1/models/{name}"
        version = model + "/versions/{version}"
        table: list[tuple[str, str, str, Handler, bool]] = [
            ("GET", "/healthz", "health", self.health, False),
            ("GET", "/readyz", "ready", self.ready, False),
            ("GET", "/metrics", "metrics", self.metrics, True),
        ]
        for base in (version, model):
            table += [
                ("POST", base + ":predict", "predict", self.predict, True),
                ("POST", base + ":{verb}", "other", self.unsupported, True),
                ("GET", base + "/metadata", "metadata", self.metadata, True),
                ("GET", base, "status", self.status, True),
            ]
        table += [
            ("POST", model + "/items", "upsert", self.upsert, True),
            ("DELETE", model + "/items", "delete", self.delete, True),
        ]
        if self._service.config.page:
            table += [
                ("GET", "/", "page", self.page, False),
                ("GET", "/page/{file}", "page", self.page, False),
                ("GET", "/gallery", "gallery", self.gallery, True),
                ("GET", "/gallery/{version}/{row}/picture", "picture", self.picture, True),
                ("GET", "/gallery/{version}/{row}/neighbours", "neighbours", self.neighbors, True),
                ("POST", "/search", "search", self.search, True),
            ]
        return [
            Route(path, self._endpoint(method, handler, protected), methods=[verb])
            for verb, path, method, handler, protected in table
        ]

    def _endpoint(self, method: str, handler: Handler, protected: bool) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            start = time.perf_counter()
            record: dict[str, object] = {"path": request.url.path[:200]}
            error = None
            try:
                if method not in HEALTH:
                    self._service.check_host(request.headers.get("host"))
                    self._service.check_connections(request.client.host if request.client else "")
                if protected:
                    self._service.authorize(request.headers.get("authorization"), method in WRITES)
                if method in WRITES:
                    _check_origin(request)
                response = await handler(request, record)
            except ServiceError as refused:
                error = refused.message
                response = _error(refused.code.value, refused.message)
                if refused.code is Code.UNAUTHENTICATED:
                    response.headers["www-authenticate"] = "Bearer"
                # After the refusal of a body that is still on its way, uvicorn drops what comes of it (for as long as a
                # client has for its headers). A connection closed at once would be reset, and the answer be lost.
                if refused.code is Code.REQUEST_TIMEOUT:
                    response.headers["connection"] = "close"
                if refused.code in (Code.RESOURCE_EXHAUSTED, Code.UNAVAILABLE):
                    if self._service.too_many_connections(request.client.host if request.client else ""):
                        response.headers["connection"] = "close"
                    response.headers["retry-after"] = "1"
            except ClientDisconnect:
                error = "the client went away"
                response = _error(499, error)
            except Exception:
                error = "internal error"
                event("unexpected error", 40, exc_info=True, path=request.url.path[:200])
                response = _error(500, "The server failed to answer this request; its log has the details")
            if self._service.draining:
                # Before the connection goes, the client knows that it will.
                response.headers["connection"] = "close"
            self._service.account("http", method, str(response.status_code), start, record, error)
            return response

        return endpoint

    async def http_error(self, request: Request, error: Exception) -> Response:
        """The answer where no route fits, counted and logged as others are."""
        status = getattr(error, "status_code", 404)
        message = {404: "There is nothing at this address", 405: "This address does not take this method"}.get(
            status, str(getattr(error, "detail", error))
        )
        response = _error(status, message)
        response.headers.update(getattr(error, "headers", None) or {})
        record: dict[str, object] = {"path": request.url.path[:200]}
        self._service.account("http", "unknown", str(status), time.perf_counter(), record, message)
        return response

    async def health(self, request: Request, record: dict[str, object]) -> Response:
        """Whether the process answers at all."""
        return _json({"status": "alive"})

    async def ready(self, request: Request, record: dict[str, object]) -> Response:
        """Whether new requests are welcome."""
        if not self._service.ready:
            raise ServiceError(Code.UNAVAILABLE, "The server is shutting down or has no version loaded")
        assert self._service.store.current is not None
        return _json({"status": "ready", "version": self._service.store.current.number})

    async def metrics(self, request: Request, record: dict[str, object]) -> Response:
        """Prometheus metrics."""
        return Response(self._service.metrics.render(), headers={"content-type": CONTENT_TYPE_LATEST})

    async def predict(self, request: Request, record: dict[str, object]) -> Response:
        """TensorFlow Serving's predict."""
        with self._service.admitted():
            body = await self._body(request)
            payload = await off_loop(len(body), tensor_json.parse, body)
        signature = payload.get("signature_name")
        if signature is not None and not isinstance(signature, str):
            raise invalid("'signature_name' must be a string")
        where, offset = payload.get("where"), payload.get("offset", 0)
        version = self._service.store.find(request.path_params["name"], _number(request))
        by_rows = False
        inputs: dict[str, np.ndarray] | None = None
        specs = version.specs.get(signature or "serving_default")
        if specs is not None:
            inputs, by_rows = await off_loop(len(body), tensor_json.decode_request, payload, specs)
        del payload

        def read(version: LoadedVersion, name: str) -> dict[str, np.ndarray]:
            assert inputs is not None
            return inputs

        outputs, _, _ = await self._service.predict(
            request.path_params["name"],
            _number(request),
            signature,
            read,
            record=record,
            where=where,
            offset=offset,
        )
        size = sum(value.size for value in outputs.values()) * 16
        return Response(
            await off_loop(size, tensor_json.encode_response, outputs, by_rows), media_type="application/json"
        )

    async def upsert(self, request: Request, record: dict[str, object]) -> Response:
        """Adds items, or replaces those whose ids are there."""
        items = await self._list(request, "items")
        limit = self._service.config.max_queries
        if len(items) > limit:
            raise invalid(f"A request may hold {limit} items. Received: {len(items)}")
        wanted = [_item(item) for item in items]
        waiting = await self._service.upsert(request.path_params["name"], wanted)
        record["rows"] = len(wanted)
        return _json({"upserted": len(wanted), "changes": waiting})

    async def delete(self, request: Request, record: dict[str, object]) -> Response:
        """Deletes items."""
        ids = await self._list(request, "ids")
        if not all(isinstance(name, str) for name in ids):
            raise invalid("'ids' must be a list of strings")
        found, waiting = await self._service.delete(request.path_params["name"], ids)
        record["rows"] = len(found)
        unknown = sorted(set(ids) - set(found))
        return _json({"deleted": len(found), "unknown": unknown, "changes": waiting})

    async def _list(self, request: Request, name: str) -> list[Any]:
        """The list in the request's body."""
        with self._service.admitted():
            body = await self._body(request)
            payload = await off_loop(len(body), tensor_json.parse, body)
        values = payload.get(name)
        if not isinstance(values, list) or not values or payload.keys() != {name}:
            raise invalid(f"The body must be {{{name!r}: [...]}} with at least one of them")
        return values

    async def unsupported(self, request: Request, record: dict[str, object]) -> Response:
        """classify, regress and whatever else a client may try."""
        raise invalid(f"Only :predict is supported. Received: :{request.path_params['verb'][:50]}")

    async def status(self, request: Request, record: dict[str, object]) -> Response:
        """TensorFlow Serving's model status."""
        store = self._service.store
        number = _number(request)
        if request.path_params["name"] != store.name:
            store.find(request.path_params["name"])
        states = [state for state in store.states() if number in (None, state[0])]
        if not states:
            raise ServiceError(Code.NOT_FOUND, f"Could not find version {number} of model {store.name}")
        return _json(
            {
                "model_version_status": [
                    {
                        "version": str(found),
                        "state": state,
                        "status": {"error_code": "UNKNOWN" if error else "OK", "error_message": error},
                    }
                    for found, state, error in states
                ]
            }
        )

    async def metadata(self, request: Request, record: dict[str, object]) -> Response:
        """TensorFlow Serving's model metadata."""
        version = self._service.store.find(request.path_params["name"], _number(request))
        signatures = {
            name: json_format.MessageToDict(
                definition, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
            )
            for name, definition in version.signature_defs.items()
        }
        return _json(
            {
                "model_spec": {
                    "name": self._service.store.name,
                    "signature_name": "",
                    "version": str(version.number),
                },
                "metadata": {"signature_def": {"signature_def": signatures}},
            }
        )

    async def page(self, request: Request, record: dict[str, object]) -> Response:
        """The search page's files."""
        name = request.path_params.get("file", "index.html")
        if name not in PAGE_FILES:
            raise ServiceError(Code.NOT_FOUND, "There is no such file")
        headers = {**SECURITY_HEADERS, "cache-control": "no-cache"}
        return Response(self._pages[name], media_type=PAGE_FILES[name], headers=headers)

    async def gallery(self, request: Request, record: dict[str, object]) -> Response:
        """A stretch of the gallery, for the page."""
        version = self._current()
        gallery = version.gallery
        offset = _query(request, "offset", 0, 0, 2**31)
        limit = _query(request, "limit", 60, 1, GALLERY_PAGE)
        where, contains = _where(request), request.query_params.get("contains", "").casefold()
        try:
            rows = await asyncio.to_thread(_shown_rows, version, where, contains)
        except ValueError as error:
            raise invalid(str(error)) from None
        total = len(rows)
        rows = rows[offset : offset + limit]
        return _json(
            {
                "model": self._service.store.name,
                "version": version.number,
                "images": version.model.has_encoder,
                "metric": version.model.manifest["index"]["metric"],
                "labels": version.labels,
                "size": len(gallery),
                "total": total,
                "max_k": self._service.config.max_k,
                "items": [self._item(version, row) for row in rows],
            }
        )

    async def picture(self, request: Request, record: dict[str, object]) -> Response:
        """A gallery item's picture."""
        version, row = self._row(request)
        content = version.thumbnails[row] if version.thumbnails is not None else b""
        if not content:
            raise ServiceError(Code.NOT_FOUND, "This item has no picture")
        kind = "image/png" if content.startswith(b"\x89PNG") else "image/jpeg"
        headers = {"cache-control": "private, max-age=3600", "x-content-type-options": "nosniff"}
        return Response(content, media_type=kind, headers=headers)

    async def neighbors(self, request: Request, record: dict[str, object]) -> Response:
        """What is near a gallery item."""
        version, row = self._row(request)
        query = np.array(version.gallery.embeddings[row : row + 1], np.float32)
        k = self._k(request)
        return await self._found(request, "search_embeddings", {"embeddings": query, "k": k}, record)

    async def search(self, request: Request, record: dict[str, object]) -> Response:
        """What is near an image, sent as the body."""
        if not self._current().model.has_encoder:
            raise invalid("This model was built without an encoder: it can be searched by embeddings only")
        with self._service.admitted():
            body = await self._body(request)
        images: np.ndarray = np.empty(1, dtype=object)
        images[0] = body
        return await self._found(request, "search_bytes", {"image_bytes": images, "k": self._k(request)}, record)

    async def _found(
        self, request: Request, signature: str, inputs: dict[str, np.ndarray], record: dict[str, object]
    ) -> Response:
        outputs, version, _ = await self._service.predict(
            self._service.store.name,
            None,
            signature,
            lambda version, name: inputs,
            record=record,
            where=_where(request),
            offset=_query(request, "offset", 0, 0, self._service.config.max_k),
        )
        result = result_of(outputs)
        items = [
            {
                "index": int(index),
                "id": result.ids[0, column],
                "score": float(result.scores[0, column]),
                "metadata": {
                    name: values[0, column : column + 1].tolist()[0] for name, values in result.metadata.items()
                },
                "picture": self._has_picture(version, int(index)),
            }
            for column, index in enumerate(result.indices[0])
        ]
        return _json({"version": version.number, "items": items})

    def _item(self, version: LoadedVersion, row: int) -> dict[str, Any]:
        gallery = version.gallery
        return {
            "index": row,
            "id": gallery.ids[row],
            "metadata": {name: values[row : row + 1].tolist()[0] for name, values in gallery.metadata.items()},
            "picture": self._has_picture(version, row),
        }

    def _has_picture(self, version: LoadedVersion, row: int) -> bool:
        return row >= 0 and version.thumbnails is not None and version.thumbnails.size(row) > 0

    def _current(self) -> LoadedVersion:
        return self._service.store.find(self._service.store.name)

    def _row(self, request: Request) -> tuple[LoadedVersion, int]:
        version = self._service.store.find(self._service.store.name, _number(request))
        row = request.path_params["row"]
        if not row.isascii() or not row.isdecimal() or len(row) > 10 or int(row) >= len(version.model):
            raise ServiceError(Code.NOT_FOUND, f"The gallery has items 0 to {len(version.model) - 1}")
        return version, int(row)

    def _k(self, request: Request) -> np.ndarray:
        assert self._service.store.current is not None
        default = self._service.store.current.model.default_k
        return np.array(_query(request, "k", default, 1, self._service.config.max_k), np.int32)

    async def _body(self, request: Request) -> bytes:
        """The request's body, if it is not too large and comes in time."""
        limit = self._service.config.max_body_bytes
        too_large = ServiceError(Code.TOO_LARGE, f"A request may have {limit} bytes")
        length = request.headers.get("content-length", "")
        if length.isdecimal() and int(length) > limit:
            raise too_large
        chunks: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(self._service.config.read_timeout):
                async for chunk in request.stream():
                    size += len(chunk)
                    if size > limit:
                        raise too_large
                    chunks.append(chunk)
        except TimeoutError:
            raise ServiceError(
                Code.REQUEST_TIMEOUT,
                f"The request's body did not arrive within {self._service.config.read_timeout:g} s",
            ) from None
        return b"".join(chunks)


def _number(request: Request) -> int | None:
    text = request.path_params.get("version")
    if text is None:
        return None
    if not text.isascii() or not text.isdecimal() or len(text) > 18:
        raise ServiceError(Code.NOT_FOUND, f"A version is a number. Received: {text[:100]!r}")
    return int(text)


def _query(request: Request, name: str, default: int, low: int, high: int) -> int:
    text = request.query_params.get(name)
    if text is None:
        return default
    if not text.isascii() or not text.isdecimal() or len(text) > 10 or not low <= int(text) <= high:
        raise invalid(f"'{name}' must be a whole number in [{low}, {high}]. Received: {text[:50]!r}")
    return int(text)


def _item(value: Any) -> dict[str, Any]:
    """An item of a request, its image as bytes."""
    if not isinstance(value, dict) or not isinstance(value.get("id"), str) or not value["id"]:
        raise invalid("An item must be an object with an 'id', a string that is not empty")
    name = value["id"][:100]
    item = {"metadata": {}, **value}
    if unknown := item.keys() - {"id", "metadata", "embedding", "image"}:
        raise invalid(
            f"Item {name!r} has an unknown field {min(unknown)[:100]!r}. Known: id, metadata, embedding, image"
        )
    if ("embedding" in item) == ("image" in item):
        raise invalid(f"Item {name!r} must have either an 'embedding' or an 'image'")
    if not isinstance(item["metadata"], dict):
        raise invalid(f"Item {name!r}: 'metadata' must be an object")
    if "image" in item:
        item["image"] = tensor_json.to_bytes(f"image of item {name}", item["image"])
    else:
        numbers = item["embedding"]
        if not isinstance(numbers, list) or not all(type(number) in (int, float) for number in numbers):
            raise invalid(f"Item {name!r}: 'embedding' must be a list of numbers")
        if any(abs(number) > LARGEST_NUMBER for number in numbers):
            raise invalid(f"Item {name!r}: 'embedding' must be finite as float32")
    return item


def _check_origin(request: Request) -> None:
    """Refuses what a page of another host sends: browsers let it, without asking the server first."""
    origin = request.headers.get("origin")
    if origin is not None and origin.partition("://")[2] != request.headers.get("host"):
        raise ServiceError(Code.FORBIDDEN, f"Pages of {origin[:100]} may not change items here")


def _shown_rows(version: LoadedVersion, where: Any, contains: str) -> Sequence[int]:
    """The rows that a gallery shows: those of items that are still there, by a filter and a part of their ids."""
    rows: Sequence[int] = range(len(version.gallery))
    if where is not None:
        rows = version.model.filtered.rows(where).tolist()
    if version.overlay is not None and len(version.overlay):
        hidden = set(version.overlay.hidden.tolist())
        rows = [row for row in rows if row not in hidden]
    if contains:
        rows = [row for row in rows if contains in version.gallery.ids[row].casefold()]
    return rows


def _where(request: Request) -> Any:
    """The filter in the address."""
    if "where" not in request.query_params:
        return None
    try:
        return parse_where(request.query_params["where"])
    except ValueError as error:
        raise invalid(str(error)) from None


def _json(content: Any, status: int = 200) -> Response:
    body = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Response(body.encode("utf-8", "replace"), status_code=status, media_type="application/json")


def _error(status: int, message: str) -> Response:
    return _json({"error": message}, status)
