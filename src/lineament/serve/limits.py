"""What protects the server: limits of requests, places for those that it works on, and answers that refuse the others.

A request needs a place before its photos are read, and keeps it until the work on them has ended. So memory is bounded
by the number of places, however many requests come. Uploads stay in memory and are gone with the answer.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from threading import Lock
from typing import BinaryIO, NamedTuple, TypeVar

from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from lineament.checks import number, whole

T = TypeVar("T")

FIELD = "photos"
"""Name of the form field that holds the files."""
HOW = "send files as multipart/form-data: curl -F photos=@photo.jpg"
LINGER_BYTES = 2**26
LINGER_SECONDS = 10.0


@dataclass(frozen=True)
class Limits:
    """Limits of the server.

    Attributes:
        bytes: Largest body of a request.
        photos: Largest number of photos in a request.
        pixels: Largest number of pixels of a photo.
        seconds: Longest time from the start of a request to its answer.
        workers: Number of requests that are worked on at the same time.
        places: Number of requests that are read, wait, or are worked on. More are refused.

    Raises:
        OptionError: A limit is out of range.
    """

    bytes: int = 2**25
    photos: int = 32
    pixels: int = 50_000_000
    seconds: float = 60.0
    workers: int = 2
    places: int = 16

    def __post_init__(self) -> None:
        for name in ("bytes", "photos", "pixels", "workers"):
            whole(getattr(self, name), f"{name} is a whole number, at least 1", low=1, high=2**40)
        whole(self.places, "places are at least as many as workers", low=self.workers)
        number(self.seconds, "seconds lie between 0.001 and a day", low=0.001, high=86_400)


class Photo(NamedTuple):
    """An uploaded file: its name, and its bytes as an open file in memory."""

    name: str
    file: BinaryIO


class Clock:
    """The time that a request has left.

    Args:
        seconds: From now on.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds, self._end = seconds, time.monotonic() + seconds

    @property
    def left(self) -> float:
        """In seconds, at least 0."""
        return max(self._end - time.monotonic(), 0.0)

    def check(self) -> None:
        """Raise a refusal (503) if no time is left."""
        if not self.left:
            raise HTTPException(503, f"not finished within {self._seconds:g} seconds; send fewer or smaller photos")


class Desk:
    """Takes in requests with photos, as many as it has places for, and hands them to the workers.

    Attributes:
        limits: The limits.
        taken: Number of places that are taken.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._lock = Lock()
        self._workers = ThreadPoolExecutor(limits.workers, thread_name_prefix="lineament")
        self.taken = 0

    async def serve(self, request: Request, work: Callable[[list[Photo], Clock], T]) -> T:
        """Read the photos of a request and return what a worker makes of them.

        Args:
            request: A request whose body has not been read.
            work: Called in a thread, with the photos and the time left for them.

        Raises:
            HTTPException: A refusal, with the status and the reason. See `refuse`.
        """
        clock = Clock(self.limits.seconds)
        if int(request.headers.get("content-length") or 0) > self.limits.bytes:
            raise _too_large(self.limits)
        self._enter()
        try:
            async with asyncio.timeout(clock.left):
                photos = await _read(request, self.limits)
            job = self._workers.submit(work, photos, clock)
        except BaseException as error:
            self._leave()
            if isinstance(error, TimeoutError):
                clock.check()
            raise
        job.add_done_callback(lambda _: self._leave())  # also if nobody waits for it any longer
        try:
            return await asyncio.wait_for(asyncio.wrap_future(job), clock.left)
        except TimeoutError:
            clock.check()
            raise

    def _enter(self) -> None:
        with self._lock:
            if self.taken == self.limits.places:
                raise HTTPException(429, "busy; try again in a second", {"Retry-After": "1"})
            self.taken += 1

    def _leave(self) -> None:
        with self._lock:
            self.taken -= 1

    def close(self) -> None:
        """Wait for the workers; drop the work that has not begun."""
        self._workers.shutdown(cancel_futures=True)


class _InMemory(MultiPartParser):
    spool_max_size = 2**62  # never a file on the disk


async def _read(request: Request, limits: Limits) -> list[Photo]:
    """The photos of a request."""
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise HTTPException(415, HOW)
    parser = _InMemory(request.headers, _bounded(request, limits), max_files=limits.photos, max_fields=8)
    try:
        form = await parser.parse()
    except MultiPartException as error:
        if "Too many files" in error.message:
            raise HTTPException(413, f"more than {limits.photos} photos; send them in several requests") from None
        raise HTTPException(400, f"{error.message} {HOW}") from None
    photos: list[Photo] = []
    for field, value in form.multi_items():
        if field != FIELD:
            raise HTTPException(422, f"field {field!r} is not known; {HOW}")
        if isinstance(value, str):
            raise HTTPException(422, f"{FIELD} is text, not a file; {HOW}")
        photos.append(Photo(value.filename or f"photo-{len(photos) + 1}", value.file))
    if not photos:
        raise HTTPException(422, f"no photo; {HOW}")
    return photos


async def _bounded(request: Request, limits: Limits) -> AsyncGenerator[bytes, None]:
    """The body of a request, up to the limit."""
    size, more = 0, True
    while more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise HTTPException(400, "the upload was cut off; send it again")
        more = message.get("more_body", False)
        request.state.read = not more
        size += len(message["body"])
        if size > limits.bytes:
            raise _too_large(limits)
        yield message["body"]


def _too_large(limits: Limits) -> HTTPException:
    return HTTPException(413, f"more than {limits.bytes / 2**20:g} MB; send fewer photos, or smaller ones")


class _Refusal(JSONResponse):
    """An answer to a request whose body has not been read.

    The client gets the answer at once. What it is still sending is dropped for a while, or the client would report a
    broken connection instead of the answer.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer, drop the rest of the request, and close the connection."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER_SECONDS):
                dropped, more = 0, True
                while more and dropped < LINGER_BYTES:
                    message = await receive()
                    dropped += len(message.get("body", b""))
                    more = message.get("more_body", False)
        await send({"type": "http.response.body", "body": b""})


def refuse(request: Request, status: int, reason: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """The answer ``{"error": reason}``."""
    kind = JSONResponse if getattr(request.state, "read", False) else _Refusal
    return kind({"error": reason}, status, {**(headers or {}), "Connection": "close"})
