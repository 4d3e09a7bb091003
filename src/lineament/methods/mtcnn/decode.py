"""MTCNN's cascade at inference (Zhang et al. 2016, section II.A), without a loop over candidates.

All candidates of all images of a call are rows of one table; every stage scores, refines and thins out that table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lineament import boxes as box_ops
from lineament.calibration import logit, sigmoid
from lineament.errors import OptionError
from lineament.faces import Faces
from lineament.methods.candidates import Candidates
from lineament.methods.mtcnn.pyramid import Pyramid
from lineament.methods.settings import DetectorSettings
from lineament.runtime import Graph
from lineament.schemas import schema
from lineament.views import View, Views, mirrored
from lineament.weights import of_weights

Array = NDArray[Any]


@dataclass(frozen=True)
class Config(DetectorSettings):
    """Settings of the cascade; those of the weights travel with them.

    Attributes:
        codec: how box offsets are written, "corner" or "rcnn".
        factor: ratio of one pyramid level's size to the one before.
        pnet_threshold: score in [0, 1] that a window of P-Net must reach.
        rnet_threshold: score in [0, 1] that a candidate must reach in R-Net.
        threshold: score in [0, 1] that a face must reach in O-Net, unless a call says otherwise. A call that asks for a
            share of it asks for the same share of P- and R-Net's, down to ...
        pnet_lowest, rnet_lowest: ... so much: there, thousands of candidates more bring hardly a face more.
        consensus: weight of R-Net's logit, added to O-Net's in a face's score: what both believe is seldom wrong; 0 is
            the paper's score.
        looks: sides of the windows in which O-Net sees every face again, for one of the square around its box:
            landmarks are the means of all looks, as the box is a better guess than R-Net's; none is the paper.
        agreement: coefficients of ``agreement``, whose weighted sum is the logit of a landmark's score: that it is
            within 5 % of the face's size of its true place. Fitted to validation photos by
            ``benchmarks/mtcnn_agreement.py``.
        min_face: side in pixels of the smallest square that is searched, unless a call says otherwise.
        nms_level, nms_pyramid, nms_rnet, nms_onet: overlap above which the worse candidate falls: at one level, over
            all levels, after R-Net, after O-Net. ``over`` says what the last counts over: "min" is the authors' code.
    """

    codec: str = of_weights("corner")
    factor: float = 0.709
    pnet_threshold: float = 0.85
    rnet_threshold: float = 0.5
    threshold: float = 0.6
    pnet_lowest: float = 0.3
    rnet_lowest: float = 0.1
    consensus: float = 0.5
    looks: Sequence[float] | None = (0.8, 1.0)
    agreement: Sequence[float] = (-0.905, -1.347)
    min_face: float = 20
    nms_level: float = 0.5
    nms_pyramid: float = 0.7
    nms_rnet: float = 0.7
    nms_onet: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.codec not in box_ops.CODECS:
            raise OptionError(f"mtcnn's codec must be one of {', '.join(box_ops.CODECS)}, found {self.codec!r}")
        if not 0 < self.factor < 1:  # or the pyramid had no end
            raise OptionError(f"mtcnn's factor must lie between 0 and 1, found {self.factor}")
        if np.shape(self.agreement) != (2,):
            raise OptionError(f"mtcnn's agreement has two coefficients, found {self.agreement}")
        if any(side <= 0 for side in self.looks or ()):
            raise OptionError(f"mtcnn's looks are shares of a box's side, above 0, found {self.looks}")


Stage = Literal["pnet", "rnet", "onet"]
SIZES = {"rnet": 24, "onet": 48}
AT_ONCE = {"rnet": 1024, "onet": 256}  # crops in one pass; bounds activations to about 70 MB


class MTCNN:
    """The cascade over a loaded file. Holds no state of a call, so any number of threads may share one.

    In every stage: score, keep what reaches the threshold, move the box as the network says, drop all but the best of
    boxes that overlap.
    """

    def __init__(self, graph: Graph, config: Config) -> None:
        self.graph, self.config = graph, config
        self.schema = schema(config.landmarks)
        self._decode = box_ops.CODECS[config.codec].decode

    def __call__(
        self, images: Sequence[Array], *, threshold: float, min_face: float, max_face: float | None
    ) -> list[Faces]:
        """The faces of every image (h, w, 3) uint8 RGB, with scores of at least ``threshold``, best first."""
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
        """What was found in views, in the frames of their images."""
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
        """P-Net over all levels of all images."""
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
        """R-Net or O-Net over square crops around the candidates, in passes of bounded memory.

        Boxes are moved as the network says, and none is suppressed. The scores' logits are those of this stage, plus
        those of the stage before by the weight ``consensus``.
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
        """The faces with landmarks that are the means of those they have and those of further looks.

        A landmark's score is a probability, by how far the looks agree about its place; without further looks it is
        its face's.
        """
        if not len(found) or not self.config.looks:
            return found
        found = found.by_image()
        looks = len(self.config.looks)
        insets = (1 - np.array(self.config.looks))[:, None] / 2 * [1, 1, -1, -1]
        squares = box_ops.square(found.boxes).repeat(looks, axis=0)  # one face's windows beside each other
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
        """Logits (n,), box offsets (n, 4) and landmark offsets (n, 2k) of windows, which lie sorted by image."""
        size, most = SIZES[stage], AT_ONCE[stage]
        tables = []
        for start in range(0, len(windows), most):
            part, whose = windows[start : start + most], image[start : start + most]
            crops = [pyramids[i].crops(self.graph, part[whose == i], size) for i in np.unique(whose)]
            tables.append(self.graph(stage, ("score", "box", "landmarks"), pixels=np.concatenate(crops)))
        return [np.concatenate(column) for column in zip(*tables, strict=True)]

    def _places(self, offsets: Array, windows: Array) -> Array:
        """Landmarks (n, k, 2) in the image, of a network's answers (n, 2k)."""
        points = offsets.reshape(len(windows), offsets.shape[1] // 2, 2)[:, self.config.columns]
        return box_ops.decode_points(points, windows)

    def _candidates(self, boxes: Array, scores: Array, landmarks: Array, image: Array) -> Candidates:
        """Candidates whose landmarks' scores are not known yet: they are their faces'."""
        return Candidates(boxes, scores, landmarks, np.repeat(scores[:, None], len(self.schema), axis=1), image)

    def _none(self) -> Candidates:
        return self._candidates(np.empty((0, 4)), np.empty(0), np.empty((0, len(self.schema), 2)), np.empty(0, np.intp))


def agreement(seen: Array, size: Array) -> Array:
    """What speaks for landmarks being near their true places (n, k, 2): how far several looks agree, and 1.

    The first is the logarithm of the looks' standard deviation around their mean, over the face's size.

    Args:
        seen: (n, looks, k, 2) places that each look gives. size: (n,) roots of the boxes' areas, in pixels.
    """
    apart = np.sqrt(((seen - seen.mean(axis=1, keepdims=True)) ** 2).sum(axis=-1).mean(axis=1))
    spread = np.log(apart / size[:, None] + 1e-3)
    return np.stack([spread, np.ones_like(spread)], axis=-1)


def with_extent(candidates: Candidates) -> Candidates:
    """Those whose boxes are a pixel wide and high, or more."""
    extent = (candidates.boxes[:, 2:] - candidates.boxes[:, :2]).min(axis=1, initial=np.inf)
    return candidates[extent >= 1]


def distinct(candidates: Candidates, overlap: float) -> Candidates:
    """Those with an extent that stand after suppression within their image, best first."""
    candidates = with_extent(candidates)
    return candidates[box_ops.nms(candidates.boxes, candidates.scores, overlap, groups=candidates.image)]
