"""The routes of the server, and its page."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.staticfiles import StaticFiles

import lineament
from lineament import covers, many, redaction
from lineament.covers import BLUR, Cover
from lineament.detector import Detector
from lineament.errors import LineamentError
from lineament.faces import Faces
from lineament.images import Array, read_image
from lineament.serve.detectors import INPUT_SIZES, Detectors
from lineament.serve.limits import FIELD, Clock, Desk, Limits, Photo, refuse
from lineament.serve.metrics import Measured, Metrics

LINES = "application/x-ndjson"
FORMATS = {"jpeg": {"quality": 92}, "png": {}, "webp": {"quality": 92}}
UPLOAD = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": [FIELD],
                    "properties": {FIELD: {"type": "array", "items": {"type": "string", "format": "binary"}}},
                }
            }
        },
    }
}


def _content(description: str, media: dict[str, Any]) -> dict[str, Any]:
    """A response in OpenAPI: its schema by media type."""
    return {"description": description, "content": {name: {"schema": schema} for name, schema in media.items()}}


ERROR = {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}}
REFUSALS: dict[int | str, dict[str, Any]] = {
    status: _content(reason, {"application/json": ERROR})
    for status, reason in {
        400: "The form is damaged.",
        413: "Too many bytes or photos.",
        415: "No form of files.",
        422: "A wrong option, or no photo that can be read.",
        429: "Busy: try again after the seconds in Retry-After.",
        503: "Not finished in time.",
    }.items()
}
PHOTO: dict[int | str, dict[str, Any]] = {
    200: _content("The photo.", {f"image/{name}": {} for name in FORMATS}),
    **REFUSALS,
}
SAFE = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob:; media-src 'self' blob:; object-src 'none'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}
"""Headers of every answer. Nothing is loaded from another place, and nothing is kept by browsers or proxies."""


class Options(BaseModel):
    """Options of detection, as in ``lineament detect``."""

    model_config = ConfigDict(extra="forbid")

    method: str | None = Field(None, description="A name from /v1/models; by default the one marked there.")
    landmarks: str | None = Field(None, description="Landmarks to predict, a name from /v1/models.")
    input_size: int | None = Field(
        None, ge=INPUT_SIZES[0], le=INPUT_SIZES[1], description="Longer edge of the image that the network sees."
    )
    verify: bool = Field(False, description="Look at each face again with a second network. KPNet does by default.")
    threshold: float | None = Field(None, ge=0, le=1, description="Lowest confidence score.")
    min_face: float | None = Field(None, ge=1, description="Smallest face to look for, in pixels of the image.")
    max_face: float | None = Field(None, ge=1, description="Largest face to look for, in pixels of the image.")


class Picture(Options):
    """Options of a photo that is made."""

    format: Literal["jpeg", "png", "webp"] = Field("jpeg", description="Format of the answer.")


class Drawing(Picture):
    """Options of a drawn photo."""

    boxes: bool = Field(True, description="Draw the bounding boxes.")
    points: bool = Field(True, description="Draw the landmarks.")
    scores: bool = Field(True, description="Write the confidence scores.")


class Redaction(Picture):
    """Options of a redacted photo. Missing a face counts more than covering something else."""

    verify: bool = Field(True, description="As for detection. The default threshold is for verified faces.")
    threshold: float | None = Field(redaction.PHOTO, ge=0, le=1, description="Lowest confidence score.")
    style: Literal["blur", "pixelate", "solid"] = Field("blur", description="How faces are covered.")
    shape: Literal["ellipse", "box"] = Field("ellipse", description="What is covered of a bounding box.")
    margin: float = Field(BLUR.margin, ge=0, le=10, description="Enlargement of each box, as a share of its sides.")
    keep: list[int] = Field(
        [],
        description="Faces that are not covered, by their place in the results of /v1/detect with the same method, "
        "input size, verify, threshold, min_face and max_face. Repeatable.",
    )


def create_app(
    detectors: Detectors | None = None, limits: Limits | None = None, hosts: list[str] | None = None
) -> FastAPI:
    """Make the server as an ASGI application.

    Args:
        detectors: The detectors that it offers. ``None``: the weights that ship.
        limits: Its limits. ``None``: the defaults.
        hosts: Names under which it answers. A web page elsewhere cannot reach it under another name that leads here.
            ``None``: any name.
    """
    offered, desk = detectors or Detectors(), Desk(limits or Limits())
    metrics = Metrics(desk)

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        yield
        desk.close()

    app = FastAPI(
        title="lineament",
        version=lineament.__version__,
        description='Face detection and facial landmarks. Errors are answered as {"error": reason}; 429 means busy, '
        "try again after the seconds in Retry-After. Nothing that is uploaded is kept.",
        lifespan=life,
        docs_url=None,  # these pages load scripts from the network
        redoc_url=None,
    )

    @app.post("/v1/detect", openapi_extra=UPLOAD, responses={200: _results(), **REFUSALS})
    async def detect(request: Request, options: Annotated[Options, Query()]) -> Response:
        """Detect faces in one photo or several.

        ``results`` has an object for each photo, in their order, as a line of ``lineament detect --json``. With
        ``Accept: application/x-ndjson`` the answer is these lines. A photo that cannot be read has its ``error``; the
        status is 422 if there is no other.
        """

        def work(photos: list[Photo], clock: Clock) -> list[dict[str, Any]]:
            detector = offered.get(options.method, options.landmarks, options.input_size, options.verify)
            return list(_records(detector, photos, options, desk.limits.pixels, clock))

        records = await desk.serve(request, work)
        metrics.count(records)
        status = 422 if all("error" in record for record in records) else 200
        if LINES in request.headers.get("accept", ""):
            return Response("".join(json.dumps(record) + "\n" for record in records), status, media_type=LINES)
        return JSONResponse({"results": records}, status)

    async def made(request: Request, options: Picture, make: Callable[[Array, Faces], Image.Image]) -> Response:
        """A photo that is made of the uploaded one and its faces."""

        def work(photos: list[Photo], clock: Clock) -> bytes:
            detector = offered.get(options.method, options.landmarks, options.input_size, options.verify)
            image, faces = _seen(detector, photos, options, desk.limits.pixels)
            clock.check()
            written = io.BytesIO()
            make(image, faces).save(written, options.format, **FORMATS[options.format])
            return written.getvalue()

        return Response(await desk.serve(request, work), media_type=f"image/{options.format}")

    @app.post("/v1/draw", openapi_extra=UPLOAD, response_class=Response, responses=PHOTO)
    async def draw(request: Request, options: Annotated[Drawing, Query()]) -> Response:
        """Draw the faces of one photo into it. The answer is the upright photo, without metadata."""

        def make(image: Array, faces: Faces) -> Image.Image:
            return lineament.draw(image, faces, boxes=options.boxes, landmarks=options.points, scores=options.scores)

        return await made(request, options, make)

    @app.post("/v1/redact", openapi_extra=UPLOAD, response_class=Response, responses=PHOTO)
    async def redact(request: Request, options: Annotated[Redaction, Query()]) -> Response:
        """Cover the faces of one photo. The answer is the upright photo, without metadata."""
        cover = Cover(options.style, options.shape, options.margin)

        def make(image: Array, faces: Faces) -> Image.Image:
            if wrong := [index for index in options.keep if not 0 <= index < len(faces)]:
                raise HTTPException(422, f"keep: there is no face {wrong[0]}; the photo has {len(faces)}")
            return covers.redact(image, faces[np.isin(np.arange(len(faces)), options.keep, invert=True)], cover)

        return await made(request, options, make)

    @app.get("/v1/models")
    async def list_models() -> dict[str, Any]:
        """The methods that may be asked for, and the limits of a request."""
        return {
            "version": lineament.__version__,
            "models": [{"name": name} | choice._asdict() for name, choice in offered.choices.items()],
            "input_size": {"least": INPUT_SIZES[0], "most": INPUT_SIZES[1]},
            "limits": {name: getattr(desk.limits, name) for name in ("bytes", "photos", "pixels", "seconds")},
        }

    @app.get("/health")
    async def health() -> dict[str, Any]:
        """Whether the server works: the default detector is loaded before it listens."""
        return {"status": "ok", "version": lineament.__version__, "places": desk.limits.places, "taken": desk.taken}

    @app.get("/metrics")
    async def read_metrics() -> Response:
        """Counts and times in the text format of Prometheus."""
        return Response(metrics.text(), media_type=metrics.media_type)

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> Response:
        return refuse(request, error.status_code, str(error.detail), error.headers)

    @app.exception_handler(RequestValidationError)
    async def unknown(request: Request, error: RequestValidationError) -> Response:
        told = (f"{'.'.join(map(str, problem['loc'][1:]))}: {problem['msg']}" for problem in error.errors())
        return refuse(request, 422, "; ".join(told))

    @app.exception_handler(LineamentError)
    async def wrong(request: Request, error: LineamentError) -> Response:
        return refuse(request, 422, str(error))

    app.mount("/", StaticFiles(packages=[("lineament.serve", "page")], html=True))
    app.add_middleware(Measured, metrics=metrics, headers=SAFE)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=hosts or ["*"])
    return app


def _results() -> dict[str, Any]:
    """The answer of /v1/detect in OpenAPI, from the JSON Schema of the command line's records."""
    record = json.loads((files("lineament") / "result.schema.json").read_text(encoding="utf-8"))
    record["oneOf"][0]["properties"]["faces"]["items"] = record["$defs"]["face"]
    item = {"description": record["description"], "oneOf": record["oneOf"]}
    results = {"type": "object", "required": ["results"], "properties": {"results": {"type": "array", "items": item}}}
    return _content("A record for each photo.", {"application/json": results, LINES: item})


def _opened(photo: Photo) -> io.BytesIO:
    """The file of a photo, under its name for messages."""
    file = io.BytesIO(photo.file.read())
    file.name = photo.name
    return file


def _records(
    detector: Detector, photos: list[Photo], options: Options, max_pixels: int, clock: Clock
) -> Iterator[dict[str, Any]]:
    """The record of each photo."""

    def opened() -> Iterator[tuple[str, io.BytesIO]]:
        for photo in photos:
            clock.check()
            yield photo.name, _opened(photo)

    return many.records(
        detector,
        opened(),
        threshold=options.threshold,
        min_face=options.min_face,
        max_face=options.max_face,
        max_pixels=max_pixels,
    )


def _seen(detector: Detector, photos: list[Photo], options: Options, max_pixels: int) -> tuple[Array, Faces]:
    """A single photo and its faces."""
    if len(photos) != 1:
        raise HTTPException(422, f"expected one photo, found {len(photos)}")
    image = read_image(_opened(photos[0]), max_pixels=max_pixels)
    faces = detector.detect(image, threshold=options.threshold, min_face=options.min_face, max_face=options.max_face)
    return image, faces
