"""Runs HTTP and gRPC on one event loop, from loading to a graceful end."""

import asyncio
import contextlib
import logging
import resource
import signal
import socket
from collections.abc import Generator

import grpc
import uvicorn
from tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc

from export.serve.grpc_service import ModelService, PredictionService
from export.serve.http_protocol import counting_protocol
from export.serve.logs import event
from export.serve.metrics import Metrics
from export.serve.model_store import ModelStore
from export.serve.rest import create_app
from export.serve.search_service import SearchService
from export.serve.server_config import ServerConfig
from export.serve.tls import grpc_credentials

LOOPBACK = ("127.0.0.1", "::1", "localhost")
# Files beside connections that a server has open.
OTHER_FILES = 256


class _HttpServer(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        # Signals end both servers, so `serve` below handles them.
        yield


async def serve(config: ServerConfig, listener: socket.socket) -> None:
    """Serves until SIGTERM or SIGINT, then finishes the requests in flight.

    Prints nothing; logs `listening` with the addresses once requests are welcome.

    Args:
        config: The settings.
        listener: A bound socket for HTTP.

    Raises:
        OSError: The port of gRPC is taken.
        FileNotFoundError, ValueError, RuntimeError: The model does not load.
    """
    metrics = Metrics()
    store = ModelStore(config.model_dir, metrics, config.name, config.verify, config.writable)
    service = SearchService(config, store, metrics)
    _allow_files(config.max_connections + OTHER_FILES)
    store.load_first()
    http = _HttpServer(
        uvicorn.Config(
            create_app(service),
            http=counting_protocol(config.read_timeout, service.connections),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=max(1, int(config.grace)),
            ssl_certfile=config.tls_cert,
            ssl_keyfile=config.tls_key,
        )
    )
    grpc_server, grpc_port = await _start_grpc(config, service)
    if config.host not in LOOPBACK and config.writable and (config.admin_token or config.token) is None:
        event("anybody who reaches this server can change its items", logging.WARNING, host=config.host)
    if config.host not in LOOPBACK and config.token is None:
        event("listening beyond this machine without a token", logging.WARNING, host=config.host)

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    follower = loop.create_task(store.follow(config.poll))
    http_task = loop.create_task(http.serve(sockets=[listener]))
    while not http.started and not http_task.done():
        await asyncio.sleep(0.01)
    rest_port = listener.getsockname()[1] if not http_task.done() else None
    event("listening", host=config.host, rest_port=rest_port, grpc_port=grpc_port, model=store.name)

    stopper = loop.create_task(stop.wait())
    await asyncio.wait({stopper, http_task}, return_when=asyncio.FIRST_COMPLETED)
    event("shutting down", drain=config.drain)
    service.draining = True
    follower.cancel()
    if config.drain:
        # Load balancers see readiness fail, and send their requests elsewhere.
        await asyncio.wait({http_task}, timeout=config.drain)
    http.should_exit = True
    if grpc_server is not None:
        await grpc_server.stop(config.grace)
    await http_task
    service.close()
    event("stopped")


def _allow_files(wanted: int) -> None:
    """Raises the limit of open files, as far as this process may: who may not connect gets no answer at all."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


async def _start_grpc(config: ServerConfig, service: SearchService) -> tuple[grpc.aio.Server | None, int | None]:
    if config.grpc_port is None:
        return None, None
    server = grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", config.max_body_bytes),
            ("grpc.max_send_message_length", -1),
            # Without this a second server on the port would silently get a share of the requests.
            ("grpc.so_reuseport", 0),
        ]
    )
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(PredictionService(service), server)
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(ModelService(service), server)
    host = f"[{config.host}]" if ":" in config.host else config.host
    try:
        address = f"{host}:{config.grpc_port}"
        if config.tls_cert is None:
            port = server.add_insecure_port(address)
        else:
            port = server.add_secure_port(address, grpc_credentials(config))
    except RuntimeError as error:
        raise OSError(f"gRPC cannot listen on {host}:{config.grpc_port}: {error}") from error
    await server.start()
    return server, port
