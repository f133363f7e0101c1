"""One connection to a server, kept open from request to request."""

from __future__ import annotations

import contextlib
import socket
from http.client import HTTPConnection, HTTPSConnection
from urllib.parse import urlsplit

JSON = {"Content-Type": "application/json"}


class Connection:
    """Posts JSON; one request at a time. Proxies of the environment are not asked.

    Args:
        url: of the server, ``http`` or ``https``.
    """

    def __init__(self, url: str) -> None:
        place = urlsplit(url)
        kind = HTTPSConnection if place.scheme == "https" else HTTPConnection
        self._http = kind(place.netloc)
        self._path = place.path
        self._aborted = False

    def post(self, path: str, body: bytes) -> tuple[int, bytes]:
        """Status and content of the reply, however long the server takes.

        Raises:
            OSError: the connection cannot be opened, or broke, or was aborted.
            http.client.HTTPException: what comes back is no HTTP.
        """
        if self._http.sock is None:
            self._http.connect()
        if self._aborted:
            raise ConnectionAbortedError("the connection was aborted")
        self._http.request("POST", self._path + path, body, JSON)
        with self._http.getresponse() as reply:
            return reply.status, reply.read()

    def abort(self) -> None:
        """Break off the request that another thread waits for, and refuse all later ones."""
        self._aborted = True  # before the look at the socket: a request that opens it now sees this
        wire = self._http.sock
        if wire is not None:
            with contextlib.suppress(OSError):  # closed already
                wire.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection; the next request opens it anew."""
        self._http.close()
