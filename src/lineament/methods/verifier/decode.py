"""The verifier at inference: a second look at the faces that a detector has found. Ours, in no paper.

The detectors see a face in their maps, the verifier in its pixels, enlarged and with what is around it. What both take
for a face is rarely wrong, and the mean of both boxes is more accurate than either.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from msgspec import Meta
from numpy.typing import ArrayLike, NDArray

from lineament import boxes as box_ops
from lineament.calibration import logit, sigmoid
from lineament.conventions import Convention, convention
from lineament.faces import Faces, downward
from lineament.methods.settings import MethodSettings, Share
from lineament.runtime import Graph
from lineament.similarity import crops
from lineament.weights import of_weights

if TYPE_CHECKING:
    from lineament.methods import Decoder

Array = NDArray[Any]

WIDER = convention("wider")  # the boxes that the network has learned; the one object of this name
AT_ONCE = 256  # crops that go through the network together; bounds the memory
MOST = 3.0
"""Largest logit of the verifier that counts, so that few faces below the threshold of a call need a second look."""
SURE = 1 - 1e-4
"""Largest score of a detector that counts. Faces above it are ranked by the verifier alone."""
UPRIGHT = (0.0, 1.0)
"""The direction from the eyes to the mouth of an upright face."""
LEAN = float(np.cos(np.deg2rad(20)))
"""Faces whose direction has a smaller cosine with `UPRIGHT` have a second crop. Validation photos chose it."""
OVERLAP = 0.6
"""Overlap above which boxes that came closer are one face, unless the detector allows more."""


@dataclass(frozen=True)
class Config(MethodSettings):
    """Settings of the verifier. Validation photos chose those that are not of the weights.

    Attributes:
        size: Side of the crops in pixels.
        context: Side of a crop relative to the longer side of the face's box.
        weight: Weight of the verifier's logit. The detector's has 1.
        bias: Added to both, so that about as many faces as before have a score of 0.5 or more.
        share: Share of the verifier's box in the box of a face.
    """

    size: int = of_weights(48)
    context: float = of_weights(1.7)
    weight: Annotated[float, Meta(ge=0)] = 0.7
    bias: float = -0.8
    share: Share = 0.75


class Verifier:
    """The verifier of a loaded file. It keeps no state between calls, so threads may share it.

    Args:
        graph: The file.
        config: Its settings.
        mirror: Whether the network also sees the mirrored crops, and its opinions are the means of both.
        overlap: Above this, boxes that came closer are one face, and the one with the lower score is removed.
            ``None``: none is removed.
        over: How that overlap is measured.
    """

    def __init__(
        self,
        graph: Graph,
        config: Config,
        *,
        mirror: bool = False,
        overlap: float | None = OVERLAP,
        over: box_ops.Overlap = "union",
    ) -> None:
        self.config, self._graph = config, graph
        self._mirror, self._overlap, self._over = mirror, overlap, over

    def faintest(self, threshold: float) -> float:
        """The lowest score of a detector whose face can have a score of ``threshold``, both in [0, 1]."""
        return float(sigmoid(logit(threshold) - self.config.bias - self.config.weight * MOST))

    def __call__(self, images: Sequence[Array], faces: Sequence[Faces]) -> list[Faces]:
        """Give faces the scores and the boxes of both, best first. Landmarks stay as they are.

        Args:
            images: (h, w, 3) uint8 RGB.
            faces: One ``Faces`` per image.
        """
        opinions = self.opinions(images, faces)
        return [self._judged(found, *opinion) for found, opinion in zip(faces, opinions, strict=True)]

    def opinions(self, images: Sequence[Array], faces: Sequence[Faces]) -> list[tuple[Array, Array]]:
        """What the network says of the faces of each image: logits (n,) and boxes (n, 4).

        It has learned from upright crops of photos. So it also sees each face that leans, by its landmarks, in a crop
        that is turned with the face, and the larger logit counts.

        Args:
            images: (h, w, 3) uint8 RGB.
            faces: One ``Faces`` per image, with finite boxes.
        """
        windows, downs, again = [], [], []
        for found in faces:
            window, down = box_ops.square(found.boxes.astype(np.float64)), downward(found)
            leaning = np.flatnonzero(down[:, 1] < LEAN)
            windows.append(np.concatenate([window, window[leaning]]))
            downs.append(np.concatenate([np.broadcast_to(UPRIGHT, down.shape), down[leaning]]))
            again.append(leaning)
        logits, boxes = self._judge(images, windows, downs)
        ends = pairwise(np.cumsum([0, *map(len, windows)]))
        return [_surer(logits[a:b], boxes[a:b], rows) for (a, b), rows in zip(ends, again, strict=True)]

    def crops(self, image: Array, boxes: Array) -> Array:
        """What the network sees of the boxes (n, 4) in an image (h, w, 3) uint8 RGB: (n, size, size, 3) uint8."""
        return self._cut(image, box_ops.square(boxes), UPRIGHT)

    def _cut(self, image: Array, windows: Array, downs: ArrayLike) -> Array:
        return crops(image, to_crops(windows, self.config.size, self.config.context, downs), self.config.size)

    def _judge(self, images: Sequence[Array], windows: Sequence[Array], downs: Sequence[Array]) -> tuple[Array, Array]:
        """Logits (n,) and boxes (n, 4) for the crops of all windows, turned by where the faces' chins are."""
        size = self.config.size
        looks = [self._cut(image, *those) for image, *those in zip(images, windows, downs, strict=True)]
        logits, offsets = self._look(np.concatenate([np.empty((0, size, size, 3), np.uint8), *looks]))
        window, down = (np.concatenate([np.empty((0, n)), *those]) for n, those in ((4, windows), (2, downs)))
        return logits, turned_boxes(box_ops.decode_rcnn(offsets, window), window, down)

    def _look(self, pixels: Array) -> tuple[Array, Array]:
        """Logits (n,) and offsets (n, 4) for crops (n, size, size, 3)."""
        logits, offsets = np.empty(len(pixels)), np.empty((len(pixels), 4))
        for start in range(0, len(pixels), AT_ONCE):
            part = slice(start, start + AT_ONCE)
            logits[part], offsets[part] = self._graph("verifier", ("score", "box"), pixels=pixels[part])
            if self._mirror:
                mirrored = np.ascontiguousarray(pixels[part, :, ::-1])
                others, moved = self._graph("verifier", ("score", "box"), pixels=mirrored)
                logits[part] = (logits[part] + others) / 2
                offsets[part] = (offsets[part] + box_ops.mirror_rcnn(moved)) / 2
        return logits, offsets

    def _judged(self, faces: Faces, logits: Array, boxes: Array) -> Faces:
        """The faces of an image with the scores and the boxes of both, best first."""
        c = self.config
        certain = np.minimum(faces.scores.astype(np.float64), SURE)
        scores = sigmoid(logit(certain) + c.weight * np.minimum(logits, MOST) + c.bias).astype(np.float32)
        moved = (faces.boxes + c.share * (boxes - faces.boxes)).astype(np.float32)
        judged = replace(faces, scores=scores, boxes=moved)
        if self._overlap is None:
            return judged[np.argsort(-scores, kind="stable")]
        return judged[box_ops.nms(moved, scores, self._overlap, over=self._over)]


class Verified:
    """A detector whose faces are verified.

    Args:
        decoder: The detector. Its boxes follow the convention ``wider``, as those that the verifier has learned.
        verifier: The verifier.
        style: The convention of the boxes to return.
        limited: Whether the detector gets the limits of sizes as well, which saves it time. The limits are of the
            returned boxes, and the detector's differ a little.
    """

    def __init__(
        self, decoder: Decoder, verifier: Verifier, style: Convention = WIDER, *, limited: bool = False
    ) -> None:
        self.schema = decoder.schema
        self._decoder, self._verifier, self._style, self._limited = decoder, verifier, style, limited

    def __call__(
        self, images: Sequence[Array], *, threshold: float, min_face: float, max_face: float | None
    ) -> list[Faces]:
        """Detect faces in images (h, w, 3) uint8 RGB, with scores of at least ``threshold``, best first."""
        lowest = self._verifier.faintest(threshold)
        least, most = (min_face, max_face) if self._limited else (1, None)
        found = self._decoder(images, threshold=lowest, min_face=least, max_face=most)
        styled = [self._styled(faces[faces.scores >= threshold]) for faces in self._verifier(images, found)]
        return [faces[box_ops.sized(faces.boxes, min_face, max_face)] for faces in styled]

    def _styled(self, faces: Faces) -> Faces:
        """The faces with boxes in the convention to return, changed as the boxes of their landmarks change."""
        if self._style is WIDER:
            return faces
        upright = replace(self._style, square=False)
        known, wanted = (one.boxes(faces.landmarks, faces.schema) for one in (WIDER, upright))
        boxes = box_ops.corrected(wanted, known, faces.boxes)
        return replace(faces, boxes=box_ops.square(boxes) if self._style.square else boxes)


def _surer(logits: Array, boxes: Array, leaning: Array) -> tuple[Array, Array]:
    """Logits (n,) and boxes (n, 4) of faces, of whom those in the rows ``leaning`` (m,) were seen again.

    Args:
        logits: (n + m,), the second looks last.
        boxes: (n + m, 4).
        leaning: (m,) rows.
    """
    n = len(logits) - len(leaning)
    surer = np.flatnonzero(logits[n:] > logits[leaning])
    logits[leaning[surer]], boxes[leaning[surer]] = logits[n + surer], boxes[n + surer]
    return logits[:n], boxes[:n]


def turned_boxes(boxes: Array, windows: Array, downs: Array) -> Array:
    """Boxes (n, 4) in crops that were turned around the centres of their windows (n, 4), as boxes in the image.

    The face is the ellipse in its box. Turned by the direction (n, 2) from its eyes to its mouth, it has another box.
    """
    x, y = downs.T
    pivot = box_ops.centre(windows)
    right, below = (box_ops.centre(boxes) - pivot).T
    centre = pivot + np.stack([y * right + x * below, y * below - x * right], axis=1)
    width, height = ((boxes[:, 2:] - boxes[:, :2]) / 2).T
    half = np.stack([np.hypot(y * width, x * height), np.hypot(x * width, y * height)], axis=1)
    return np.concatenate([centre - half, centre + half], axis=1)


def to_crops(windows: Array, size: int, context: float, downs: ArrayLike = UPRIGHT) -> Array:
    """Transforms (n, 2, 3) from an image to crops of ``size`` pixels, ``context`` times as wide as their windows.

    The crops are turned around their centres so that the directions ``downs`` (n, 2) or (2,), of length 1, point down.
    """
    scale = size / (context * np.maximum(box_ops.longer_side(windows), 1e-6))
    centre = box_ops.centre(windows)
    x, y = np.broadcast_to(downs, (len(windows), 2)).T
    linear = scale[:, None, None] * np.stack([np.stack([y, -x], -1), np.stack([x, y], -1)], -2)
    return np.concatenate([linear, size / 2 - linear @ centre[..., None]], axis=2)
