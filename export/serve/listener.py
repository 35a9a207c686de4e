"""The HTTP socket, taken before anything slow is done."""

import socket


def listen(host: str, port: int) -> socket.socket:
    """A TCP socket bound to an address; connections are refused until a server listens on it.

    Raises:
        OSError: The address is taken or not one of this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol named, asyncio turns Nagle's algorithm off; without, an answer can wait 40 ms for the client.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise OSError(f"HTTP cannot listen on {host}:{port}: {error.strerror or error}") from error
    return listener
