"""Structured logs: one JSON object a line."""

import json
import logging
import sys
import time

LOGGER = logging.getLogger("export.serve")


class JsonFormatter(logging.Formatter):
    """Message, level and the fields given as `extra={"fields": {...}}`."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line of JSON."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"
        entry = {"time": stamp, "level": record.levelname.lower(), "event": record.getMessage()}
        entry |= getattr(record, "fields", {})
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False, default=str)


def configure(level: str) -> None:
    """Sends the server's logs to stderr as JSON, and what its libraries warn about too."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    LOGGER.setLevel(level.upper())


def event(message: str, level: int = logging.INFO, exc_info: bool = False, **fields: object) -> None:
    """Logs an event with fields."""
    if LOGGER.isEnabledFor(level):
        LOGGER.log(level, message, exc_info=exc_info, extra={"fields": fields})
