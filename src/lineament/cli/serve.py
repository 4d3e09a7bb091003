"""``lineament serve``: a page and routes for detection, on this machine."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import warnings
from typing import Annotated

import typer
from PIL import Image

from lineament.cli.messages import messages
from lineament.errors import MissingExtraError, OptionError
from lineament.images import MAX_PIXELS
from lineament.weights import DEFAULT

LOOPBACK = "127.0.0.1"
PORT = 8000


def serve(
    host: Annotated[
        str, typer.Option(help="Address to listen on. Only this machine reaches the default; 0.0.0.0 is every address.")
    ] = LOOPBACK,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 for any free one.")] = PORT,
    method: Annotated[
        str,
        typer.Option("--method", "-m", help="Default detector: name from `lineament models`, or path of an ONNX file."),
    ] = DEFAULT,
    runtime: Annotated[str, typer.Option(help="onnx or openvino.")] = "onnx",
    device: Annotated[
        str, typer.Option(help="Device to run on, or auto for the fastest that starts. A missing device is an error.")
    ] = "cpu",
    threads: Annotated[int | None, typer.Option(help="Processor threads of a request (default: all cores).")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Requests that are worked on at the same time.")] = 2,
    places: Annotated[
        int, typer.Option(min=1, help="Requests that are read, wait or are worked on. More get the answer 429.")
    ] = 16,
    timeout: Annotated[float, typer.Option(help="Seconds from the start of a request to its answer.")] = 60.0,
    max_megabytes: Annotated[float, typer.Option(min=0.001, help="Largest request.")] = 32.0,
    max_photos: Annotated[int, typer.Option(min=1, help="Most photos in a request.")] = 32,
    max_pixels: Annotated[int, typer.Option(min=1, help="Refuse photos with more pixels.")] = 50_000_000,
) -> None:
    """Serve a page for detection, and POST /v1/detect for programs.

    Nothing that is uploaded is kept. Ctrl-C stops the server after the requests in work.
    """
    try:
        import uvicorn

        from lineament.serve import Limits, create_app
        from lineament.serve.detectors import Detectors
    except ImportError as error:
        raise MissingExtraError.of("serve", f"lineament serve needs {error.name}") from error
    limits = Limits(round(max_megabytes * 2**20), max_photos, max_pixels, timeout, workers, places)
    listener = _listen(host, port)
    with listener:
        local = ipaddress.ip_address(listener.getsockname()[0]).is_loopback
        detectors = Detectors(method, runtime=runtime, device=device, threads=threads)
        app = create_app(detectors, limits, ["localhost", "127.0.0.1", "::1", host] if local else None)
        Image.MAX_IMAGE_PIXELS = max(max_pixels, MAX_PIXELS)  # raise Pillow's own limit with ours
        warnings.filterwarnings("ignore", module="PIL")  # problems of a photo are reported in its answer
        shown = f"[{host}]" if ":" in host else host
        messages.say(f"http://{shown}:{listener.getsockname()[1]} - Ctrl-C stops the server")
        if not local:
            messages.say(
                f"{host} is reached by other machines, without a password and without encryption. Browsers give the "
                "camera only to pages of this machine or with https.",
                "yellow",
            )
        config = uvicorn.Config(
            app, log_config=None, access_log=False, server_header=False, timeout_graceful_shutdown=round(timeout) + 1
        )
        with contextlib.suppress(KeyboardInterrupt):  # uvicorn sends itself the signal that stopped it
            uvicorn.Server(config).run(sockets=[listener])


def _listen(host: str, port: int) -> socket.socket:
    """Open the port, so that a port in use is an error before the weights are loaded."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise OptionError(f"cannot listen on {host}, port {port}: {error.strerror}; choose another --port") from error
