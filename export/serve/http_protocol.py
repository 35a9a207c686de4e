"""uvicorn's HTTP protocol with a time limit for request headers."""

import asyncio
import collections
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol


def counting_protocol(seconds: float, connections: "collections.Counter[str]") -> type[H11Protocol]:
    """A protocol class that closes connections whose request headers do not arrive within `seconds`, and counts them.

    uvicorn itself waits for ever, so that a handful of silent clients could hold every connection.

    Args:
        seconds: From the connection, or from the first byte of a further request, to the end of its headers.
        connections: Gets the number of open connections of each address.
    """

    class Protocol(H11Protocol):
        _header_timer: asyncio.TimerHandle | None = None
        _address = ""

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._address = self.client[0] if self.client else ""
            connections[self._address] += 1
            self._watch()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop()
            connections[self._address] -= 1
            if not connections[self._address]:
                del connections[self._address]
            super().connection_lost(exc)

        def _watch(self) -> None:
            waiting = self.cycle is None or self.cycle.response_complete
            if not waiting:
                self._stop()
            elif self._header_timer is None:
                self._header_timer = self.loop.call_later(seconds, self._expire)

        def _stop(self) -> None:
            if self._header_timer is not None:
                self._header_timer.cancel()
                self._header_timer = None

        def _expire(self) -> None:
            self._header_timer = None
            if (self.cycle is None or self.cycle.response_complete) and not self.transport.is_closing():
                self.transport.close()

    return Protocol
