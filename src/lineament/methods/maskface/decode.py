"""MaskFace at inference (Yashunin et al. 2020): detect faces in views of an image, then find their landmarks."""

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
from lineament.methods.settings import Share
from lineament.runtime import Graph
from lineament.schemas import schema
from lineament.views import View, Views
from lineament.weights import of_weights

Array = NDArray[Any]

LIMITS = Limits(multiple=64, largest=160.0, overview=256.0)
AT_ONCE = 1 << 20  # pixels of views per batch: limits activations to about 500 MB
FACES_AT_ONCE = 64  # faces per batch of the landmark head: limits the masks of 68 landmarks to 55 MB
LEAST = -2.95  # smallest logit of a candidate, a probability of 0.05
LARGEST_OFFSET = 4.0  # far larger than any trained offset: exp() must not overflow


@dataclass(frozen=True)
class Config(OverviewSettings):
    """Settings of MaskFace.

    Attributes:
        finest: The finest level in use, 2 for stride 4.
        smallest: Side of the smallest anchor, in pixels of the input.
        keypoint_head: Whether the file has a landmark head. Otherwise landmarks are NaN.
        region_margin: Margin around a face on every side of the region for its landmarks, as a share of the face's
            side.
        k0: Level of the landmark features of a face of 224 pixels (equation 6).
        nms: Overlap above which non-maximum suppression removes the lower-scoring of two boxes, in [0, 1].
        calibration: Knots of the map from the probability of an anchor to the fraction of such detections that are
            faces. ``None``: the score is the probability.
        landmark_calibration: Knots of the map from the probability of the cells around a peak to the fraction of such
            landmarks that are correct. ``None``: the score is the probability.
    """

    finest: int = of_weights(FINEST)
    smallest: float = of_weights(SMALLEST)
    keypoint_head: bool = of_weights(True)
    region_margin: float = of_weights(0.0)
    k0: int = of_weights(3)
    nms: Share = 0.5
    calibration: Mapping[str, Any] | None = None
    landmark_calibration: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Seen(Candidates):
    """Candidates and their regions.

    Attributes:
        view: (n,) index of the view.
        row: (n,) index of the view in its batch.
        regions: (n, 4) regions for the landmarks, in pixels of the view.
    """

    view: Array
    row: Array
    regions: Array


@dataclass(frozen=True)
class Detections(Seen):
    """The candidates that remain in each view after the suppression of duplicates.

    Attributes:
        pooled: (n,) index of the pooled features. The features themselves are large, so selections must not copy them.
    """

    pooled: Array


class MaskFaceDecoder:
    """MaskFace with a loaded file. It keeps no state between calls, so threads may share it."""

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
        """Detect the faces in images (h, w, 3) uint8 RGB with scores of at least ``threshold``, best first."""
        if not images:
            return []
        shown = Views(view for number, image in enumerate(images) for view in self.views(number, image))
        batches = [self._look(shown, *batch, threshold, min_face, max_face) for batch in shown.batches(AT_ONCE)]
        seen, stands, pooled = zip(*batches, strict=True)
        found = joined(stands)
        merged = self._merged(joined(seen), Detections(**vars(found), pooled=np.arange(len(found))))
        return self._with_landmarks(shown, merged, np.concatenate(pooled)).faces(images, self.schema)

    def views(self, number: int, image: Array) -> list[View]:
        """The views of an image for the network, each with the sizes of faces that count in it."""
        return looks(number, image, self.config, LIMITS)

    def _look(
        self, shown: Views, numbers: Array, pixels: Array, threshold: float, min_face: float, max_face: float | None
    ) -> tuple[Seen, Seen, Array]:
        """All candidates in views of one shape, those that remain in each view, and the pooled features of these."""
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
        seen = seen[shown.counts(in_view, view)].sized(min_face, max_face)
        one_pass = replace(self.config, voting=None)
        stands = replace(seen, image=seen.view).suppressed(one_pass, self.config.nms, threshold)
        stands = replace(stands, image=shown.image[stands.view])
        return seen, stands, self._pooled(features, stands)

    def _scores(self, logit: Array) -> Array:
        probability = sigmoid(logit)
        return self.calibration.apply(probability) if self.calibration else probability

    def _pooled(self, features: Sequence[Array], seen: Seen) -> Array:
        """The pooled features (n, c, 14, 14) of the regions, each from its own level (equation 6)."""
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

    def _merged(self, seen: Seen, found: Detections) -> Detections:
        """Merge the detections of an image's views, best first.

        What Soft-NMS has left in one view stays, unless boxes vote. In the paper, voting also removes all duplicates
        (section 4.2). Without Soft-NMS, all candidates vote, and otherwise what it has left, with the new scores.
        """
        c = self.config
        soft = c.suppression != "nms"
        voters = found if soft else seen
        passes = found.view if soft and c.voting is None else None
        found = found[box_ops.nms(found.boxes, found.scores, c.nms, groups=found.image, passes=passes, over=c.over)]
        if c.voting is None:
            return found
        boxes, image = (
            np.concatenate([getattr(part, name) for part in (found, voters)]) for name in ("boxes", "image")
        )
        scores = np.concatenate([np.zeros(len(found)), voters.scores])  # the detections are among the voters already
        return replace(found, boxes=box_ops.vote(boxes, scores, np.arange(len(found)), c.voting, groups=image))

    def _with_landmarks(self, shown: Views, found: Detections, pooled: Array) -> Detections:
        """Add landmarks and their scores, from the pooled features (m, c, 14, 14) of the regions, in batches."""
        entry = f"landmarks_{self.schema.name}"
        points = np.full((len(found), len(self.schema), 2), np.nan)
        mass = np.zeros((len(found), len(self.schema)))
        for start in range(0, len(found) * self.config.keypoint_head, FACES_AT_ONCE):
            some = slice(start, start + FACES_AT_ONCE)
            points[some], mass[some] = self.graph(entry, ("points", "mass"), pooled=pooled[found.pooled[some]])
        points = shown.points(box_ops.decode_points(points, found.regions), found.view, self.schema)
        mass = shown.each(mass, found.view, self.schema)
        scores = self.landmark_calibration.apply(mass) if self.landmark_calibration else mass.clip(0, 1)
        return replace(found, landmarks=points, landmark_scores=scores)
