"""Certificates of a server."""

import ssl
from typing import TYPE_CHECKING

from export.serve.server_config import ServerConfig
from keras_dml.utils.files import check_regular

if TYPE_CHECKING:
    import grpc


def check_tls(config: ServerConfig) -> None:
    """Raises where certificate and key cannot be read or do not belong together, before a model is loaded.

    Raises:
        OSError: A file cannot be read.
        ValueError: It holds no certificate or key, or those of different pairs, or the key asks for a password.
    """
    if config.tls_cert is None:
        return
    key = config.tls_key or config.tls_cert
    for path in (config.tls_cert, key):
        check_regular(path)
        with open(path, "rb"):
            pass

    def no_password() -> str:
        raise ValueError(f"{key}: the private key is encrypted. Write it without a password")

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(config.tls_cert, key, no_password)
    except ssl.SSLError as error:
        reason = {"KEY_VALUES_MISMATCH": "the key does not belong to the certificate"}.get(
            error.reason or "", "a PEM file of a certificate, and one of its private key, were expected"
        )
        raise ValueError(f"{config.tls_cert} and {key}: {reason} ({error.reason or error})") from None


def grpc_credentials(config: ServerConfig) -> "grpc.ServerCredentials":
    """The same certificate for gRPC."""
    import grpc

    assert config.tls_cert is not None
    key = (config.tls_key or config.tls_cert).read_bytes()
    return grpc.ssl_server_credentials([(key, config.tls_cert.read_bytes())])
