"""MaskFace at inference (Yashunin et al. 2020): faces in views of an image, then landmarks in the faces that stand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lineament import boxes as box_ops
from lineament.anchors import all_anchors
from lineament.calibration import Calibration, sigmoid
from lineament.faces import Faces
from lineament.methods.candidates import Candidates, joined
from lineament.methods.looks import Limits, OverviewSettings, looks
from lineament.methods.maskface.levels import FINEST, POOLED, SMALLEST, level_of, levels
from lineament.runtime import Graph
from lineament.schemas import schema
from lineament.views import View, Views
from lineament.weights import of_weights

Array = NDArray[Any]

LIMITS = Limits(multiple=64, largest=160.0, overview=256.0)
AT_ONCE = 1 << 20  # pixels of views in one batch: bounds activations to about 500 MB
FACES_AT_ONCE = 64  # whose landmarks are looked for together: bounds the masks of 68 landmarks to 55 MB
LEAST = -2.95  # logit of a face's probability below which an anchor is never a candidate: 0.05
LARGEST_OFFSET = 4.0  # of a box's logarithmic size, far beyond what is learnt: exp() must not overflow


@dataclass(frozen=True)
class Config(OverviewSettings):
    """Settings of MaskFace; those of the weights travel with them.

    Attributes:
        finest: level of the finest map. smallest: side in pixels of the smallest anchor.
        keypoint_head: whether the file has one; without, landmarks are NaN.
        region_margin: how much further than its face a region of landmarks reaches on every side, as a share of the
            side.
        k0: level that the landmarks of a face of 224 pixels are read from (equation 6).
        nms: overlap above which the worse of two faces falls.
        calibration: knots of the map from an anchor's probability to the share of such detections that are faces;
            ``None`` for the probability as it is.
        landmark_calibration: likewise from the probability of the cells around a mask's peak to the share of such
            landmarks that are right.
    """

    finest: int = of_weights(FINEST)
    smallest: float = of_weights(SMALLEST)
    keypoint_head: bool = of_weights(True)
    region_margin: float = of_weights(0.0)
    k0: int = of_weights(3)
    nms: float = 0.5
    calibration: Mapping[str, Any] | None = None
    landmark_calibration: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Seen(Candidates):
    """Candidates and where the network saw them.

    Attributes:
        view: (n,) number of the view. row: (n,) its place in the batch. regions: (n, 4) where landmarks are looked
            for, in the view's pixels.
    """

    view: Array
    row: Array
    regions: Array


@dataclass(frozen=True)
class Detections(Seen):
    """Candidates that stand in their view.

    Attributes:
        pooled: (n, c, 14, 14) features of the regions.
    """

    pooled: Array


class MaskFaceDecoder:
    """MaskFace over a loaded file. Holds no state of a call, so any number of threads may share one."""

    def __init__(self, graph: Graph, config: Config) -> None:
        self.graph, self.config = graph, config
        self.schema = schema(config.landmarks)
        self.levels = levels(config.finest, config.smallest)
        self.calibration, self.landmark_calibration = (
            Calibration.from_dict(knots) if knots else None
            for knots in (config.calibration, config.landmark_calibration)
        )

    def __call__(
        self, images: Sequence[Array], *, threshold: float, min_face: float, max_face: float | None
    ) -> list[Faces]:
        """The faces of every image (h, w, 3) uint8 RGB, with scores of at least ``threshold``, best first."""
        if not images:
            return []
        shown = Views(view for number, image in enumerate(images) for view in self.views(number, image))
        batches = [self._look(shown, *batch, threshold, min_face, max_face) for batch in shown.batches(AT_ONCE)]
        seen, found = (joined(parts) for parts in zip(*batches, strict=True))
        return self._with_landmarks(shown, self._merged(seen, found, threshold)).faces(images, self.schema)

    def views(self, number: int, image: Array) -> list[View]:
        """What the network is shown of an image, and which faces count in which view."""
        return looks(number, image, self.config, LIMITS)

    def _look(
        self, shown: Views, numbers: Array, pixels: Array, threshold: float, min_face: float, max_face: float | None
    ) -> tuple[Seen, Detections]:
        """All candidates in views of one shape, and those that stand in each view, with their features."""
        maps = tuple(f"level_{i}" for i in range(len(self.levels)))
        logit, offset, *features = self.graph("maskface", ("logit", "offset", *maps), pixels=pixels)
        row, anchor = np.nonzero(logit > LEAST)
        scores = self._scores(logit[row, anchor])
        row, anchor, scores = (values[scores >= threshold] for values in (row, anchor, scores))
        anchors = all_anchors(pixels.shape[2], pixels.shape[1], self.levels)[anchor]
        offsets = offset[row, anchor].astype(np.float64).clip(-LARGEST_OFFSET, LARGEST_OFFSET)
        in_view, view = box_ops.decode_rcnn(offsets, anchors), numbers[row]
        seen = Seen(
            boxes=shown.boxes(in_view, view),
            scores=scores,
            landmarks=np.zeros((len(row), 0, 2)),
            landmark_scores=np.zeros((len(row), 0)),
            image=shown.image[view],
            view=view,
            row=row,
            regions=box_ops.grown(in_view, self.config.region_margin),
        )
        seen = seen[shown.counts(box_ops.longer_side(in_view), view)].sized(min_face, max_face)
        one_pass = replace(self.config, voting=None)
        stands = replace(seen, image=seen.view).suppressed(one_pass, self.config.nms, threshold)
        stands = replace(stands, image=shown.image[stands.view])
        return seen, Detections(**vars(stands), pooled=self._pooled(features, stands))

    def _scores(self, logit: Array) -> Array:
        probability = sigmoid(logit)
        return self.calibration.apply(probability) if self.calibration else probability

    def _pooled(self, features: Sequence[Array], seen: Seen) -> Array:
        """The features (n, c, 14, 14) of regions, each from its level (equation 6)."""
        if not self.config.keypoint_head:
            return np.empty((len(seen), 0, POOLED, POOLED), np.float32)
        level = level_of(seen.regions, self.config.k0, self.config.finest)
        pooled = np.empty((len(seen), features[0].shape[1], POOLED, POOLED), np.float32)
        for number in np.unique(level):
            mine = level == number
            cells = (seen.regions[mine] / self.levels[number].stride).astype(np.float32)
            given = {"features": features[number], "boxes": cells, "image": seen.row[mine].astype(np.int64)}
            (pooled[mine],) = self.graph("regions", ("pooled",), **given)
        return pooled

    def _merged(self, seen: Seen, found: Detections, threshold: float) -> Detections:
        """One detection for each face of an image, best first, of those that stand in its views.

        Where boxes vote, all that were seen have a say; after Soft-NMS those that are left, with the scores left.
        """
        c = self.config
        voters = seen if c.suppression == "nms" else found
        if c.suppression == "nms" or len(np.unique(found.view)) > len(np.unique(found.image)):
            found = found.suppressed(replace(c, suppression="nms", voting=None), c.nms, threshold)
        if c.voting is None:
            return found
        boxes, image = (
            np.concatenate([getattr(part, name) for part in (found, voters)]) for name in ("boxes", "image")
        )
        scores = np.concatenate([np.zeros(len(found)), voters.scores])  # a box is among the voters already
        return replace(found, boxes=box_ops.vote(boxes, scores, np.arange(len(found)), c.voting, groups=image))

    def _with_landmarks(self, shown: Views, found: Detections) -> Detections:
        """The same with landmarks and their scores, from the features of their regions, some at a time."""
        entry = f"landmarks_{self.schema.name}"
        points = np.full((len(found), len(self.schema), 2), np.nan)
        mass = np.zeros((len(found), len(self.schema)))
        for start in range(0, len(found) * self.config.keypoint_head, FACES_AT_ONCE):
            some = slice(start, start + FACES_AT_ONCE)
            points[some], mass[some] = self.graph(entry, ("points", "mass"), pooled=found.pooled[some])
        points = shown.points(box_ops.decode_points(points, found.regions), found.view, self.schema)
        mass = shown.each(mass, found.view, self.schema)
        scores = self.landmark_calibration.apply(mass) if self.landmark_calibration else mass.clip(0, 1)
        return replace(found, landmarks=points, landmark_scores=scores)
