"""KPNet at inference (Song et al. 2020): views of an image, proposals with landmarks, and boxes derived from them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product
from typing import Annotated, Any, Literal

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from lineament import boxes as box_ops
from lineament.calibration import Calibration, sigmoid
from lineament.conventions import convention
from lineament.errors import OptionError
from lineament.faces import Faces
from lineament.methods.candidates import Candidates
from lineament.methods.kpnet import scales
from lineament.methods.looks import Limits, OverviewSettings, looks
from lineament.methods.settings import VERIFY, ConventionSettings, Share, of_length, option
from lineament.runtime import Graph
from lineament.schemas import FIVE, MAPS, Schema, schema
from lineament.views import View, Views
from lineament.weights import of_weights

Array = NDArray[Any]
Boxes = Literal["learned", "inferred"]

LARGEST_IN_WHOLE = 96.0
"""Largest side, in pixels of the input, of a face that counts if the overview shows it, too. Landmarks of larger faces
are less accurate, and most larger detections are false positives.
"""
OVERVIEW = 160
"""Longer edge of the largest overview, in pixels."""
AT_ONCE = 1 << 20  # pixels of views in one batch; bounds activations to about 500 MB
LOGITS = np.linspace(-12, 12, 769)  # of proposals; below the first, no threshold is reached
UNEVEN = 0.05
"""Least peak of a face relative to the mean of its peaks. Of a thousand detections in validation photos with a
score of 0.2, fewer than one had less.
"""
PEAKS = [(mean * (2 - ratio), mean * ratio) for mean in (0, *np.geomspace(1e-4, 1, 33)) for ratio in (1, UNEVEN)]
"""Pairs of peaks whose mean and minimum go through their range."""


# Initial values; training fits them to its validation photos.
EVIDENCE = (2.0, 1.7, 1.6, 1.5, 0.5, 2.0)
LANDMARK_EVIDENCE = 3  # number of coefficients
REFINEMENT = (len(EVIDENCE), 5, 4)  # evidence, features of the landmarks' box, sides of the box


@dataclass(frozen=True)
class Config(OverviewSettings, ConventionSettings):
    """Settings of KPNet. Those of a weight file travel with it.

    Attributes:
        backbone: A key of ``scales.GRIDS``.
        learned: The convention of the boxes that the network was trained on. Proposals are as large as their longer
            sides.
        boxes: "learned": the boxes that the network predicts, if it learned to (ours). "inferred": from the landmarks
            (the paper), with ``refinement`` or ``proposal``.
        refinement: Coefficients (6, 5, 4) of the expected boxes, see ``refined``. ``None``: not fitted.
        proposal: Without ``refinement``: how far boxes are moved and resized towards the proposal, in [0, 1]. 0 is the
            paper.
        calibration: Knots of the map from the score, in [0, 1], to the share of such proposals that are faces.
            ``None``: not fitted.
        evidence: Coefficients of ``evidence``, whose weighted sum is the logit of the score. ``None``: the score of
            equation 8 divided by its largest value.
        landmark_evidence: Coefficients of ``landmark_evidence``, whose weighted sum is the logit of a landmark's score.
            ``None``: its peak.
        nms: Overlap above which the face with the lower score is removed.
        verify: As in `DetectorSettings`, but on. In a photo with a few faces, the second look costs little beside the
            first.
    """

    verify: bool | Annotated[str, Meta(min_length=1)] = option(True, VERIFY)
    backbone: str = of_weights("drnet")
    learned: str | Mapping[str, Any] = "wider"
    boxes: Boxes = "inferred"
    refinement: Sequence[Sequence[Sequence[float]]] | None = None
    proposal: Share = 0.7
    calibration: Mapping[str, Any] | None = None
    evidence: Annotated[Sequence[float], of_length(len(EVIDENCE))] | None = EVIDENCE
    landmark_evidence: Annotated[Sequence[float], of_length(LANDMARK_EVIDENCE)] | None = None
    nms: Share = 0.6

    @property
    def multiple(self) -> int:
        """The sides of an input are multiples of this."""
        return scales.GRIDS[self.backbone].multiple

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.backbone not in scales.GRIDS:
            raise OptionError(f"kpnet has no backbone {self.backbone!r}; there are: {', '.join(scales.GRIDS)}")
        shape = np.array(self.refinement, dtype=object).shape
        if self.refinement is not None and shape != REFINEMENT:
            raise OptionError(f"refinement has coefficients {REFINEMENT} or is null, found {shape}")


@dataclass(frozen=True)
class Proposals(Candidates):
    """Candidates with the evidence for them.

    Attributes:
        evidence: (n, 6), see ``evidence``.
        squares: (n, 4) proposals of the network.
        expected: (n, 4) boxes from the landmarks, in the convention that the network learned.
        landmark_evidence: (n, k, 3), see ``landmark_evidence``.
    """

    evidence: Array
    squares: Array
    expected: Array
    landmark_evidence: Array


class KPNetDecoder:
    """KPNet for a loaded file. No call changes what another computes, so threads may share it."""

    def __init__(self, graph: Graph, config: Config) -> None:
        self.graph, self.config = graph, config
        self._is_learned = config.boxes == "learned"
        if self._is_learned and "kpnet.box" not in graph.outputs:
            raise OptionError("these weights have no learned boxes; boxes='inferred' derives them from the landmarks")
        self.schema = schema(config.landmarks)
        self.convention, self.learned = convention(config.convention), convention(config.learned)
        self.calibration = Calibration.from_dict(config.calibration) if config.calibration else None
        self._refinement = None if config.refinement is None else np.array(config.refinement, np.float64)
        # the overlap of proposal and landmarks with the most evidence for a face
        self._best_agreement = float(config.evidence is None or config.evidence[2] > 0)
        self._faintest = lru_cache(self.faintest)  # the same for most images

    def __call__(
        self, images: Sequence[Array], *, threshold: float, min_face: float, max_face: float | None
    ) -> list[Faces]:
        """Detect faces in images (h, w, 3) uint8 RGB, with scores of at least ``threshold``, best first."""
        if not images:
            return []
        found = self.propose(images, threshold)
        found = found[found.scores >= threshold].sized(min_face, max_face)
        return found.suppressed(self.config, self.config.nms, threshold).faces(images, self.schema)

    def propose(
        self, images: Sequence[Array], threshold: float = 0.0, *, surpassing: float = float(LOGITS[0])
    ) -> Proposals:
        """The proposals in all views of the images, with scores and boxes, before suppression.

        Proposals that cannot reach the threshold, wherever their landmarks are, are left out (see ``faintest``). These
        are nearly all.

        Args:
            images: (h, w, 3) uint8 RGB.
            threshold: Lowest score.
            surpassing: Proposals with a logit up to this are left out.
        """
        shown = Views(view for number, image in enumerate(images) for view in self.views(number, image))
        seen = [self._look(shown, numbers, pixels, threshold, surpassing) for numbers, pixels in shown.batches(AT_ONCE)]
        columns = [np.concatenate(parts) for parts in zip(*seen, strict=True)]
        _, logit, square, _, peaks, *_ = columns
        side = box_ops.longer_side(square)
        best = np.full(len(logit), self._best_agreement)
        likely = self._scores(logit, side, best, self._counted(peaks))[0] >= threshold
        side = side[likely]
        view, logit, square, points, peaks, *box = (column[likely] for column in columns)
        points = shown.points(points, view, self.schema)
        square = shown.boxes(square, view)
        expected = self.learned.boxes(points, self.schema)
        same = self.config.convention == self.config.learned
        inferred = expected if same else replace(self.convention, square=False).boxes(points, self.schema)
        around = box_ops.square(expected)
        scores, speaks = self._scores(logit, side, box_ops.overlap(around, square), self._counted(peaks))
        if self._is_learned:
            boxes = box_ops.corrected(inferred, expected, shown.boxes(box[0], view))
        elif self._refinement is None:
            boxes = box_ops.corrected(inferred, around, square, self.config.proposal)
        else:
            boxes = box_ops.corrected(inferred, expected, refined(expected, square, speaks, self._refinement))
        landmark_scores, speak = self._landmark_scores(shown.each(peaks, view, self.schema), side)
        return Proposals(
            boxes=box_ops.square(boxes) if self.convention.square else boxes,
            scores=scores,
            landmarks=points,
            landmark_scores=landmark_scores,
            image=shown.image[view],
            evidence=speaks,
            squares=square,
            expected=expected,
            landmark_evidence=speak,
        )

    def _counted(self, peaks: Array) -> Array:
        """The peaks (n, m) that count in equation 8, out of those of all landmarks (n, k)."""
        return peaks[:, eyes_and_nose(self.schema)]

    def _scores(self, logit: Array, side: Array, agreement: Array, peaks: Array) -> tuple[Array, Array]:
        """Scores (n,) in [0, 1], and their evidence (n, 6). The arguments are those of ``evidence``."""
        speaks = evidence(logit, side, agreement, peaks)
        if self.config.evidence is None:
            scores = (sigmoid(logit) + peaks.sum(axis=1)) / (1 + peaks.shape[1])
        else:
            scores = sigmoid(speaks @ np.array(self.config.evidence))
        return self._calibrated(scores), speaks

    def _landmark_scores(self, peaks: Array, side: Array) -> tuple[Array, Array]:
        """Landmark scores (n, k) in [0, 1], and their evidence (n, k, 3)."""
        speak = landmark_evidence(peaks, side)
        coefficients = self.config.landmark_evidence
        return peaks if coefficients is None else sigmoid(speak @ np.array(coefficients)), speak

    def _calibrated(self, scores: Array) -> Array:
        return self.calibration.apply(scores) if self.calibration else scores

    def faintest(self, threshold: float, largest: float = math.inf) -> float:
        """The smallest logit with which proposals of up to this many pixels can reach a threshold.

        Everything else speaks for a face as much as it can, but for one thing: peaks do not differ by more than those
        of faces do (``UNEVEN``). Without this, many more proposals would have their landmarks extracted in vain.
        """
        if self.config.evidence is None or self.config.evidence[0] <= 0:
            return float(LOGITS[0])
        own, *others = self.config.evidence
        extremes = product((scales.SMALLEST, min(largest, scales.LARGEST)), (0, 1), PEAKS)
        side, agreement, peaks = map(np.array, zip(*extremes, strict=True))
        most = (evidence(np.zeros(len(side)), side, agreement, peaks)[:, 1:] @ others).max()
        reached = self._calibrated(sigmoid(own * LOGITS + most)) >= threshold
        return float(LOGITS[max(int(reached.argmax()) - 1, 0)] if reached.any() else LOGITS[-1])

    def views(self, number: int, image: Array) -> list[View]:
        """The views of an image, and which faces count in which view."""
        return looks(number, image, self.config, Limits(self.config.multiple, LARGEST_IN_WHOLE, OVERVIEW))

    def _look(
        self, shown: Views, numbers: Array, pixels: Array, threshold: float, surpassing: float
    ) -> tuple[Array, ...]:
        """Run the network on views of one shape: the view of each proposal, and the outputs for it."""
        reaching = [self._faintest(threshold, largest) for largest in shown.largest[numbers]]
        faintest = np.maximum(reaching, surpassing).astype(np.float32)
        outputs = ("logit", "centre", "side", "landmarks", "peaks", *(["box"] if self._is_learned else []))
        found = self.graph("kpnet", outputs, pixels=pixels, threshold=faintest)
        logit, centre, side, *rest = found
        square = np.concatenate([centre - side[..., None] / 2, centre + side[..., None] / 2], axis=-1)
        kept = (logit > faintest[:, None]) & shown.counts(square, numbers[:, None])
        points, peaks, *box = (values[kept] for values in rest)
        columns, view = self.config.columns, numbers[kept.nonzero()[0]]
        return view, logit[kept].astype(np.float64), square[kept], points[:, columns], peaks[:, columns], *box


def evidence(logit: Array, side: Array, agreement: Array, peaks: Array) -> Array:
    """Evidence for proposals (n, 6). A linear function of it is the logit of the probability of a face.

    Equation 8 adds a probability and softmax values, which are larger the fewer cells a region has. Here they count as
    logarithms, beside the size of the region and other evidence.

    Args:
        logit: (n,) of the probability of the scale.
        side: (n,) of the proposal, in pixels of the input.
        agreement: (n,) intersection over union of the proposal and the square around the box from the landmarks.
        peaks: (n, m) largest softmax values, those of equation 8.
    """
    columns = (
        logit,
        np.log2(side / 32),
        np.log(agreement + 0.05),
        np.log(peaks.mean(axis=1) + 1e-3),
        np.log(peaks.min(axis=1) + 1e-3),
        np.ones(len(logit)),
    )
    return np.stack(columns, axis=1).astype(np.float64)


def landmark_evidence(peaks: Array, side: Array) -> Array:
    """Evidence for landmarks (n, k, 3): their peaks, and the size of the face.

    A peak is the share of a landmark's softmax in one cell. The fewer cells a region has, the larger is the peak even
    of a flat response, so the size counts as well.

    Args:
        peaks: (n, k) largest softmax values.
        side: (n,) of the proposal, in pixels of the input.
    """
    size = np.broadcast_to(np.log2(side / 32)[:, None], peaks.shape)
    return np.stack([np.log(peaks + 1e-3), size, np.ones(peaks.shape)], axis=-1).astype(np.float64)


def eyes_and_nose(landmarks: Schema) -> tuple[int, ...]:
    """Indices of the landmarks whose peaks count in equation 8: those that make the eyes and the nose of five
    landmarks.

    If a schema has no map to five, all of its landmarks count.
    """
    if landmarks == FIVE:
        return (0, 1, 2)
    parts = MAPS.get((landmarks.name, FIVE.name), [range(len(landmarks))])
    return tuple(sorted({index for part in parts[:3] for index in part}))


def refined(expected: Array, squares: Array, speaks: Array, coefficients: Array) -> Array:
    """Ours: the expected boxes (n, 4) from landmarks and proposals together.

    How much each counts depends on the size of the face and the certainty of the network. The offsets from the proposal
    (as in R-CNN) are a linear function of the offsets of the landmarks' box. Its coefficients are a linear function of
    the evidence.

    Args:
        expected: (n, 4) boxes from the landmarks.
        squares: (n, 4) proposals.
        speaks: (n, 6) see ``evidence``.
        coefficients: (6, 5, 4) by evidence, ``terms`` and offset.
    """
    offsets = np.einsum("ne,nt,eto->no", speaks, terms(expected, squares), coefficients)
    return box_ops.decode_rcnn(np.clip(offsets, -1, 1), squares)


def terms(expected: Array, squares: Array) -> Array:
    """The terms of ``refined`` (n, 5): offsets of a box from a square, as in R-CNN, and 1."""
    with np.errstate(divide="ignore", invalid="ignore"):  # landmarks in one point
        offsets = np.clip(box_ops.encode_rcnn(expected, squares), -2, 2)
    return np.concatenate([offsets, np.ones((len(offsets), 1))], axis=1)
