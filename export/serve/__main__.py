"""`keras-dml serve MODEL_DIR`: serves an exported model over HTTP and gRPC."""

import argparse
import asyncio
import dataclasses
import os
import pathlib
from typing import Any

from export import versions
from export.serve.listener import listen
from export.serve.logs import configure
from export.serve.server_config import ServerConfig
from export.serve.tls import check_tls
from keras_dml.utils.command import Parser, execute, run

TOKEN_VARIABLE = "EXPORT_SERVE_TOKEN"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    defaults = {field.name: field.default for field in dataclasses.fields(ServerConfig)}
    result = Parser(
        "serve",
        "Serves an exported model with TensorFlow Serving's REST and gRPC interfaces, a search page at /, "
        "Prometheus metrics at /metrics, /healthz and /readyz. Newer versions in MODEL_DIR are picked up without "
        "dropping a request.",
        epilog=f"A bearer token is taken from --token-file or the environment variable {TOKEN_VARIABLE}; it never "
        "stands on the command line, where other users of the machine could read it.",
    )

    def add(flag: str, kind: type, metavar: str, text: str) -> None:
        name = flag.removeprefix("--").replace("-", "_")
        result.add_argument(
            flag, type=kind, default=defaults[name], metavar=metavar, help=f"{text} (default %(default)s)"
        )

    result.add_argument("model_dir", type=pathlib.Path, metavar="MODEL_DIR", help="what keras-dml build wrote")
    result.add_argument("--name", help="the model's name in URLs (default: that of its directory when built)")
    add("--host", str, "ADDRESS", "address to listen on; 0.0.0.0 for every interface")
    add("--rest-port", int, "PORT", "port of HTTP; 0 takes a free one")
    add("--grpc-port", int, "PORT", "port of gRPC; 0 takes a free one")
    result.add_argument("--no-grpc", action="store_true", help="serve HTTP only")
    result.add_argument("--no-page", action="store_true", help="serve neither the search page nor the gallery")
    result.add_argument(
        "--no-verify", action="store_true", help="compare sizes, not checksums, of a version's files before serving it"
    )
    result.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="name by which clients may call this server without a token, beside its addresses; can be repeated",
    )
    result.add_argument("--token-file", type=pathlib.Path, metavar="FILE", help="file with the bearer token")
    result.add_argument(
        "--writable", action="store_true", help="let requests add, replace and delete items (POST and DELETE .../items)"
    )
    result.add_argument(
        "--admin-token-file",
        type=pathlib.Path,
        metavar="FILE",
        help="file with the bearer token for such requests (default: that of all requests)",
    )
    result.add_argument(
        "--tls-cert", type=pathlib.Path, metavar="FILE", help="PEM certificate (chain): serve HTTPS, and gRPC over TLS"
    )
    result.add_argument(
        "--tls-key", type=pathlib.Path, metavar="FILE", help="PEM private key (default: in the file of --tls-cert)"
    )
    add("--max-body-bytes", int, "N", "largest request")
    add("--max-pixels", int, "N", "most pixels of one image, all frames of a GIF counted")
    add("--max-request-pixels", int, "N", "most pixels of all images of a request")
    add("--max-images", int, "N", "most images of a request")
    add("--max-queries", int, "N", "most embeddings of a request")
    add("--max-answer-bytes", int, "N", "largest answer")
    add("--max-connections", int, "N", "connections of HTTP; beyond, health checks alone are answered")
    add("--max-connections-per-address", int, "N", "the same from one address")
    add("--max-k", int, "N", "most neighbors per query")
    add("--max-results", int, "N", "most neighbors of a request, all queries together")
    add("--max-concurrency", int, "N", "requests worked on or waiting; more are refused with 429")
    add("--max-batch", int, "N", "most rows computed together for several requests")
    add("--max-batch-images", int, "N", "the same for images, where that is fewer; try more on an accelerator")
    add("--workers", int, "N", "batches computed at the same time")
    add("--timeout", float, "S", "seconds from a request to its answer")
    add("--read-timeout", float, "S", "seconds for a client to send its headers, and again for the body")
    add("--grace", float, "S", "seconds that requests may take to finish at shutdown")
    add("--drain", float, "S", "seconds after SIGTERM in which /readyz says 503 and requests are still served")
    add("--poll", float, "S", "seconds between looks for a new version; 0 never looks")
    result.add_argument(
        "--log-level", choices=("debug", "info", "warning", "error"), default="info", help="what is logged"
    )
    return result


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns the exit status."""
    arguments = vars(parser().parse_args(argv))
    configure(arguments.pop("log_level"))
    files = {name: arguments.pop(f"{name}_file") for name in ("token", "admin_token")}
    if arguments.pop("no_grpc"):
        arguments["grpc_port"] = None
    arguments["verify"] = not arguments.pop("no_verify")
    arguments["allow_host"] = tuple(arguments["allow_host"])
    arguments["page"] = not arguments.pop("no_page")
    return execute(lambda: _run(arguments, files))


def _run(arguments: dict[str, Any], files: dict[str, pathlib.Path | None]) -> None:
    try:
        arguments["token"] = os.environ.get(TOKEN_VARIABLE)
        for name, file in files.items():
            if file is not None:
                arguments[name] = file.read_text(encoding="utf-8").strip()
        config = ServerConfig(**arguments)
        check_tls(config)
        versions.resolve(config.model_dir)
        with listen(config.host, config.rest_port) as listener:
            # Late: TensorFlow takes seconds to import, and mistakes should show at once.
            from export.serve.server import serve

            asyncio.run(serve(config, listener))
    except ModuleNotFoundError as error:
        raise ImportError(f"{error}. The server needs its extra: pip install 'keras-dml[serve]'") from error


if __name__ == "__main__":
    run(main)
