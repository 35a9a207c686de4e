"""An answer that is not a result."""

import enum


class Code(enum.Enum):
    """What went wrong: gRPC's name for it and the HTTP status."""

    INVALID_ARGUMENT = 400
    UNAUTHENTICATED = 401
    FORBIDDEN = 403
    NOT_FOUND = 404
    REQUEST_TIMEOUT = 408
    TOO_LARGE = 413
    RESOURCE_EXHAUSTED = 429
    INTERNAL = 500
    UNAVAILABLE = 503
    DEADLINE_EXCEEDED = 504

    @property
    def grpc_name(self) -> str:
        """Name of the gRPC status."""
        others = {
            "FORBIDDEN": "PERMISSION_DENIED",
            "REQUEST_TIMEOUT": "DEADLINE_EXCEEDED",
            "TOO_LARGE": "RESOURCE_EXHAUSTED",
        }
        return others.get(self.name, self.name)


class ServiceError(Exception):
    """Ends a request with a status and a message for the client.

    Args:
        code: The status.
        message: What is wrong and what to do.
    """

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
