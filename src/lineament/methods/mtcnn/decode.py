"""MTCNN's cascade at inference (Zhang et al. 2016, section II.A), without a loop over candidates.

All candidates of all pictures of a call are rows of one table; every stage scores, refines and thins out that table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lineament import boxes as box_ops
from lineament.errors import OptionError
from lineament.faces import Faces
from lineament.methods.candidates import Candidates
from lineament.methods.mtcnn.pyramid import Pyramid
from lineament.methods.settings import DetectorSettings
from lineament.runtime import Graph
from lineament.schemas import schema
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
        consensus: weight of R-Net's logit beside O-Net's in a face's score: what both believe is seldom wrong; 0 is the
            paper's score.
        looks: sides of the windows in which O-Net sees every face again, for one of the square around its box:
            landmarks are the means of all looks, as the box is a better guess than R-Net's; none is the paper.
        min_face: side in pixels of the smallest square that is searched, unless a call says otherwise.
        nms_level, nms_pyramid, nms_rnet, nms_onet: intersection over union above which the worse candidate falls: at
            one level, over all levels, after R-Net, after O-Net.
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
        """The faces of every picture (h, w, 3) uint8 RGB, with scores of at least ``threshold``, best first."""
        c = self.config
        pyramids = [Pyramid(image) for image in images]
        share = min(threshold / c.threshold, 1) if c.threshold else 1
        pnet = min(c.pnet_threshold, max(share * c.pnet_threshold, c.pnet_lowest))
        rnet = min(c.rnet_threshold, max(share * c.rnet_threshold, c.rnet_lowest))
        found = self.propose(pyramids, pnet, min_face=min_face, max_face=max_face)
        found = self.refine("rnet", pyramids, found, rnet, nms=c.nms_rnet)
        found = self.refine("onet", pyramids, found, threshold, nms=c.nms_onet, consensus=c.consensus)
        return self.look_again(pyramids, found).faces(images, self.schema)

    def propose(
        self, pyramids: Sequence[Pyramid], threshold: float, *, min_face: float, max_face: float | None
    ) -> Candidates:
        """P-Net over all levels of all pictures."""
        tables: list[list[Array]] = []
        group = 0
        for picture, pyramid in enumerate(pyramids):
            for level in pyramid.levels(min_face, max_face or np.inf, self.config.factor):
                for first_row, strip in level.strips():
                    logits, offsets = self.graph("pnet", ("score", "box"), image=strip[None])
                    row, column = np.nonzero(logits[0] >= _logit(threshold))
                    windows = level.windows(row + first_row, column)
                    labels = np.tile([picture, group], (len(row), 1))
                    tables.append([windows, _sigmoid(logits[0, row, column]), offsets[0, :, row, column], labels])
                group += 1
        if not tables:
            return self._none()
        windows, scores, offsets, labels = (np.concatenate(column) for column in zip(*tables, strict=True))
        kept = box_ops.nms(windows, scores, self.config.nms_level, groups=labels[:, 1])
        nowhere = np.full((len(kept), len(self.schema), 2), np.nan)
        moved = self._decode(offsets[kept], windows[kept])
        return _thinned(Candidates(moved, scores[kept], nowhere, labels[kept, 0]), self.config.nms_pyramid)

    def refine(
        self,
        stage: Literal["rnet", "onet"],
        pyramids: Sequence[Pyramid],
        candidates: Candidates,
        threshold: float,
        *,
        nms: float,
        consensus: float = 0,
    ) -> Candidates:
        """R-Net or O-Net over square crops around the candidates, in passes of bounded memory.

        The scores are those of this stage, with the stage's before added at the weight ``consensus``.
        """
        candidates = candidates.by_picture()
        windows = box_ops.square(candidates.boxes)
        if not len(windows):
            return self._none()
        logits, offsets, points = self._look(stage, pyramids, windows, candidates.picture)
        if consensus:
            logits = logits + consensus * _logit(candidates.scores)
        good = logits >= _logit(threshold)
        windows = windows[good]
        moved = self._decode(offsets[good], windows)
        landmarks = self._places(points[good], windows)
        refined = Candidates(moved, _sigmoid(logits[good]), landmarks, candidates.picture[good])
        return _thinned(refined, nms)

    def look_again(self, pyramids: Sequence[Pyramid], found: Candidates) -> Candidates:
        """The faces with landmarks that are the means of those they have and those of further looks."""
        if not len(found) or not self.config.looks:
            return found
        found = found.by_picture()
        looks = len(self.config.looks)
        insets = (1 - np.array(self.config.looks))[:, None] / 2 * [1, 1, -1, -1]
        squares = box_ops.square(found.boxes).repeat(looks, axis=0)  # one face's windows beside each other
        windows = box_ops.decode_corner(np.tile(insets, (len(found), 1)), squares)
        *_, points = self._look("onet", pyramids, windows, found.picture.repeat(looks))
        seen = self._places(points, windows).reshape(len(found), looks, -1, 2)
        return replace(found, landmarks=(found.landmarks + seen.sum(axis=1)) / (1 + looks))

    def _look(
        self, stage: Literal["rnet", "onet"], pyramids: Sequence[Pyramid], windows: Array, picture: Array
    ) -> list[Array]:
        """Logits (n,), box offsets (n, 4) and landmark offsets (n, 2k) of windows, which lie sorted by picture."""
        size, most = SIZES[stage], AT_ONCE[stage]
        tables = []
        for start in range(0, len(windows), most):
            part, whose = windows[start : start + most], picture[start : start + most]
            crops = [pyramids[i].crops(self.graph, part[whose == i], size) for i in np.unique(whose)]
            tables.append(self.graph(stage, ("score", "box", "landmarks"), pixels=np.concatenate(crops)))
        return [np.concatenate(column) for column in zip(*tables, strict=True)]

    def _places(self, offsets: Array, windows: Array) -> Array:
        """Landmarks (n, k, 2) in the picture of a network's answers (n, 2k)."""
        points = offsets.reshape(len(windows), offsets.shape[1] // 2, 2)[:, self.config.columns]
        return box_ops.decode_points(points, windows)

    def _none(self) -> Candidates:
        k = len(self.schema)
        return Candidates(np.empty((0, 4)), np.empty(0), np.empty((0, k, 2)), np.empty(0, np.intp))


def _thinned(candidates: Candidates, threshold: float) -> Candidates:
    """Those with an extent that stand after suppression within their picture, best first."""
    extent = (candidates.boxes[:, 2:] - candidates.boxes[:, :2]).min(axis=1, initial=np.inf)
    candidates = candidates[extent >= 1]
    return candidates[box_ops.nms(candidates.boxes, candidates.scores, threshold, groups=candidates.picture)]


def _sigmoid(logits: Array) -> Array:
    return 1 / (1 + np.exp(-logits.astype(np.float64)))


def _logit(score: float | Array) -> Array:
    """Inverse of the sigmoid, infinite at 0 and 1."""
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(score) - np.log1p(np.negative(score)))
