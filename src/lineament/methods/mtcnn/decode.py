"""MTCNN's cascade at inference (Zhang et al. 2016, section II.A), without a loop over candidates.

All candidates of all images of a call are rows of one table. Each stage scores, refines and filters this table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from lineament import boxes as box_ops
from lineament.calibration import logit, sigmoid
from lineament.errors import OptionError
from lineament.faces import Faces
from lineament.methods.candidates import Candidates
from lineament.methods.mtcnn.pyramid import Pyramid
from lineament.methods.settings import DetectorSettings, Positive, Share, of_length
from lineament.runtime import Graph
from lineament.schemas import schema
from lineament.views import View, Views, mirrored
from lineament.weights import of_weights

Array = NDArray[Any]


@dataclass(frozen=True)
class Config(DetectorSettings):
    """Settings of the cascade. Those of a weight file travel with it.

    Attributes:
        codec: The encoding of box offsets, "corner" or "rcnn".
        factor: Ratio of the size of a pyramid level to the previous one, in (0, 0.99]: at 1 the pyramid would not end.
        pnet_threshold: Lowest score of a window in P-Net, in [0, 1].
        rnet_threshold: Lowest score of a candidate in R-Net, in [0, 1].
        threshold: Default of the lowest score of a face in O-Net, in [0, 1]. A call with a fraction of it also uses
            this fraction of the thresholds of P- and R-Net, down to ``pnet_lowest`` and ``rnet_lowest``.
        pnet_lowest: Lower limit of P-Net's threshold. Below it, thousands of additional candidates yield hardly any
            face.
        rnet_lowest: Lower limit of R-Net's threshold.
        consensus: Weight of R-Net's logit in the score of a face, which is added to O-Net's. What both detect is rarely
            wrong. 0 is the paper's score.
        looks: Sides of the windows of additional O-Net passes, relative to the square around the box. Landmarks are the
            means of all passes, since the box is a better guess than R-Net's. None is the paper.
        agreement: Coefficients of ``agreement``, whose weighted sum is the logit of a landmark's score: the probability
            that it is within 5 % of the face size of its true position. Fitted to validation photos by
            ``benchmarks/mtcnn_agreement.py``.
        min_face: Default of the side of the smallest square that is searched, in pixels.
        nms_level: Overlap above which the worse candidate is removed, at one level.
        nms_pyramid: The same over all levels.
        nms_rnet: The same after R-Net.
        nms_onet: The same after O-Net. ``over`` decides how overlap is measured there; "min" is the authors' code.
    """

    codec: str = of_weights("corner")
    factor: Annotated[float, Meta(gt=0, le=0.99)] = 0.709
    pnet_threshold: Share = 0.85
    rnet_threshold: Share = 0.5
    threshold: Share = 0.6
    pnet_lowest: Share = 0.3
    rnet_lowest: Share = 0.1
    consensus: Annotated[float, Meta(ge=0)] = 0.5
    looks: Sequence[Positive] | None = (0.8, 1.0)
    agreement: Annotated[Sequence[float], of_length(2)] = (-0.905, -1.347)
    min_face: Annotated[float, Meta(ge=1)] = 20
    nms_level: Share = 0.5
    nms_pyramid: Share = 0.7
    nms_rnet: Share = 0.7
    nms_onet: Share = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.codec not in box_ops.CODECS:
            raise OptionError(f"mtcnn's codec must be one of {', '.join(box_ops.CODECS)}, found {self.codec!r}")


Stage = Literal["pnet", "rnet", "onet"]
SIZES = {"rnet": 24, "onet": 48}
AT_ONCE = {"rnet": 1024, "onet": 256}  # crops in one pass; bounds activations to about 70 MB


class MTCNN:
    """The cascade of a loaded file. It keeps no state between calls, so threads may share it.

    Each stage scores its candidates, keeps those above the threshold, moves the boxes as the network predicts, and
    suppresses overlapping boxes.
    """

    def __init__(self, graph: Graph, config: Config) -> None:
        self.graph, self.config = graph, config
        self.schema = schema(config.landmarks)
        self._decode = box_ops.CODECS[config.codec].decode

    def __call__(
        self, images: Sequence[Array], *, threshold: float, min_face: float, max_face: float | None
    ) -> list[Faces]:
        """Detect faces in images (h, w, 3) uint8 RGB, with scores of at least ``threshold``, best first."""
        c = self.config
        whole = [View(number, image, 1.0, np.zeros(2)) for number, image in enumerate(images)]
        shown = Views([*whole, *map(mirrored, whole)] if c.flip else whole)
        pyramids = [Pyramid(view.pixels) for view in shown.views]
        share = min(threshold / c.threshold, 1) if c.threshold else 1
        pnet = min(c.pnet_threshold, max(share * c.pnet_threshold, c.pnet_lowest))
        rnet = min(c.rnet_threshold, max(share * c.rnet_threshold, c.rnet_lowest))
        found = self.propose(pyramids, pnet, min_face=min_face, max_face=max_face)
        found = distinct(self.refine("rnet", pyramids, found, rnet), c.nms_rnet)
        found = with_extent(self.refine("onet", pyramids, found, threshold, consensus=c.consensus))
        found = self._in_images(found, shown).suppressed(c, c.nms_onet, threshold)
        return self.look_again(pyramids, found).faces(images, self.schema)

    def _in_images(self, found: Candidates, shown: Views) -> Candidates:
        """Detect candidates in views, in the frames of their images."""
        if not self.config.flip:  # the views are the images
            return found
        return replace(
            found,
            boxes=shown.boxes(found.boxes, found.image),
            landmarks=shown.points(found.landmarks, found.image, self.schema),
            image=shown.image[found.image],
        )

    def propose(
        self, pyramids: Sequence[Pyramid], threshold: float, *, min_face: float, max_face: float | None
    ) -> Candidates:
        """Run P-Net over all levels of all images."""
        tables: list[list[Array]] = []
        group = 0
        for image, pyramid in enumerate(pyramids):
            for level in pyramid.levels(min_face, max_face or np.inf, self.config.factor):
                for first_row, strip in level.strips():
                    logits, offsets = self.graph("pnet", ("score", "box"), image=strip[None])
                    row, column = np.nonzero(logits[0] >= logit(threshold))
                    windows = level.windows(row + first_row, column)
                    labels = np.tile([image, group], (len(row), 1))
                    tables.append([windows, sigmoid(logits[0, row, column]), offsets[0, :, row, column], labels])
                group += 1
        if not tables:
            return self._none()
        windows, scores, offsets, labels = (np.concatenate(column) for column in zip(*tables, strict=True))
        kept = box_ops.nms(windows, scores, self.config.nms_level, groups=labels[:, 1])
        nowhere = np.full((len(kept), len(self.schema), 2), np.nan)
        moved = self._decode(offsets[kept], windows[kept])
        return distinct(self._candidates(moved, scores[kept], nowhere, labels[kept, 0]), self.config.nms_pyramid)

    def refine(
        self,
        stage: Literal["rnet", "onet"],
        pyramids: Sequence[Pyramid],
        candidates: Candidates,
        threshold: float,
        *,
        consensus: float = 0,
    ) -> Candidates:
        """Run R-Net or O-Net on square crops around the candidates, in passes of bounded memory.

        Boxes are moved as the network predicts, and none is suppressed. The logits of the scores are those of this
        stage plus those of the previous stage with the weight ``consensus``.
        """
        candidates = candidates.by_image()
        windows = box_ops.square(candidates.boxes)
        if not len(windows):
            return self._none()
        logits, offsets, points = self._look(stage, pyramids, windows, candidates.image)
        if consensus:
            logits = logits + consensus * logit(candidates.scores)
        good = logits >= logit(threshold)
        windows = windows[good]
        moved = self._decode(offsets[good], windows)
        landmarks = self._places(points[good], windows)
        return self._candidates(moved, sigmoid(logits[good]), landmarks, candidates.image[good])

    def look_again(self, pyramids: Sequence[Pyramid], found: Candidates) -> Candidates:
        """Average the landmarks of faces with those of additional passes.

        A landmark's score is a probability that depends on the agreement of the passes. Without additional passes it is
        the score of its face.
        """
        if not len(found) or not self.config.looks:
            return found
        found = found.by_image()
        looks = len(self.config.looks)
        insets = (1 - np.array(self.config.looks))[:, None] / 2 * [1, 1, -1, -1]
        squares = box_ops.square(found.boxes).repeat(looks, axis=0)  # the windows of one face are neighbours
        windows = box_ops.decode_corner(np.tile(insets, (len(found), 1)), squares)
        *_, points = self._look("onet", pyramids, windows, found.image.repeat(looks))
        further = self._places(points, windows).reshape(len(found), looks, -1, 2)
        seen = np.concatenate([found.landmarks[:, None], further], axis=1)
        evidence = agreement(seen, np.sqrt(box_ops.area(found.boxes)))
        scores = sigmoid(evidence @ np.array(self.config.agreement))
        return replace(found, landmarks=seen.mean(axis=1), landmark_scores=scores)

    def _look(
        self, stage: Literal["rnet", "onet"], pyramids: Sequence[Pyramid], windows: Array, image: Array
    ) -> list[Array]:
        """Logits (n,), box offsets (n, 4) and landmark offsets (n, 2k) of windows, which are sorted by image."""
        size, most = SIZES[stage], AT_ONCE[stage]
        tables = []
        for start in range(0, len(windows), most):
            part, whose = windows[start : start + most], image[start : start + most]
            crops = [pyramids[i].crops(self.graph, part[whose == i], size) for i in np.unique(whose)]
            tables.append(self.graph(stage, ("score", "box", "landmarks"), pixels=np.concatenate(crops)))
        return [np.concatenate(column) for column in zip(*tables, strict=True)]

    def _places(self, offsets: Array, windows: Array) -> Array:
        """Landmarks (n, k, 2) in the image from network outputs (n, 2k)."""
        points = offsets.reshape(len(windows), offsets.shape[1] // 2, 2)[:, self.config.columns]
        return box_ops.decode_points(points, windows)

    def _candidates(self, boxes: Array, scores: Array, landmarks: Array, image: Array) -> Candidates:
        """Candidates whose landmark scores are not known yet. They get the scores of their faces."""
        return Candidates(boxes, scores, landmarks, np.repeat(scores[:, None], len(self.schema), axis=1), image)

    def _none(self) -> Candidates:
        return self._candidates(np.empty((0, 4)), np.empty(0), np.empty((0, len(self.schema), 2)), np.empty(0, np.intp))


def agreement(seen: Array, size: Array) -> Array:
    """Evidence for the accuracy of landmarks (n, k, 2): the agreement of several passes, and 1.

    The agreement is the logarithm of the passes' standard deviation around their mean, divided by the face size.

    Args:
        seen: (n, passes, k, 2) positions of each pass.
        size: (n,) square roots of the box areas, in pixels.
    """
    apart = np.sqrt(((seen - seen.mean(axis=1, keepdims=True)) ** 2).sum(axis=-1).mean(axis=1))
    spread = np.log(apart / size[:, None] + 1e-3)
    return np.stack([spread, np.ones_like(spread)], axis=-1)


def with_extent(candidates: Candidates) -> Candidates:
    """Select boxes that are at least a pixel wide and high."""
    extent = (candidates.boxes[:, 2:] - candidates.boxes[:, :2]).min(axis=1, initial=np.inf)
    return candidates[extent >= 1]


def distinct(candidates: Candidates, overlap: float) -> Candidates:
    """Select boxes with an extent that survive suppression within their image, best first."""
    candidates = with_extent(candidates)
    return candidates[box_ops.nms(candidates.boxes, candidates.scores, overlap, groups=candidates.image)]
