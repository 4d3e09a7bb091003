"""What the server counts, in the text format of Prometheus."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client import generate_latest as as_text
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lineament.serve.limits import Desk


class Metrics:
    """The counts of one server.

    Args:
        desk: Where the places are taken.

    Attributes:
        media_type: Of ``text``.
    """

    media_type = CONTENT_TYPE_LATEST

    def __init__(self, desk: Desk) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        into: dict[str, Any] = {"registry": self._registry}
        self._requests = Counter("lineament_requests", "Requests answered", ["route", "status"], **into)
        self._seconds = Histogram("lineament_request_seconds", "Time from request to answer", ["route"], **into)
        self._photos = Counter("lineament_photos", "Photos", ["outcome"], **into)
        self._faces = Counter("lineament_faces", "Faces found", **into)
        places = Gauge("lineament_places", "Places for requests with photos", ["state"], **into)
        places.labels("taken").set_function(lambda: desk.taken)
        places.labels("free").set_function(lambda: desk.limits.places - desk.taken)

    def count(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Count the photos and faces of an answer."""
        for record in records:
            self._photos.labels("unreadable" if "error" in record else "read").inc()
            self._faces.inc(len(record.get("faces", ())))

    def answered(self, route: str, status: int, seconds: float) -> None:
        """Count an answer."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def text(self) -> bytes:
        """All counts."""
        return as_text(self._registry)


class Measured:
    """Counts the answers of an application, and adds headers to them."""

    def __init__(self, app: ASGIApp, metrics: Metrics, headers: Mapping[str, str]) -> None:
        self._app, self._metrics, self._headers = app, metrics, headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = time.monotonic()

        async def seen(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(self._headers)
                route = getattr(scope.get("route"), "path", "") or "page"  # few labels, whatever is asked for
                self._metrics.answered(route, message["status"], time.monotonic() - start)
            await send(message)

        await self._app(scope, receive, seen)
