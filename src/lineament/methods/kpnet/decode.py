"""KPNet at inference (Song et al. 2020): views of an image, proposals with landmarks, boxes inferred from them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lineament import boxes as box_ops
from lineament.calibration import Calibration, sigmoid
from lineament.conventions import Convention, convention
from lineament.errors import OptionError
from lineament.faces import Faces
from lineament.methods.candidates import Candidates
from lineament.methods.kpnet import scales
from lineament.methods.looks import Limits, OverviewSettings, looks
from lineament.methods.settings import ConventionSettings
from lineament.runtime import Graph
from lineament.schemas import FIVE, MAPS, Schema, schema
from lineament.views import View, Views
from lineament.weights import of_weights

Array = NDArray[Any]

LARGEST_IN_WHOLE = 96.0
"""Side in pixels of the input up to which a face counts where the overview shows it, too: landmarks of larger ones are
less exact, and most of what seems that large is no face."""
OVERVIEW = 160
"""Longer edge in pixels of the largest overview."""
AT_ONCE = 1 << 20  # pixels of views in one batch: bounds activations to about 500 MB
LOGITS = np.linspace(-12, 12, 97)  # of proposals; below the first there is none at any threshold


# A start for what a training fits to its validation photos.
EVIDENCE = (2.0, 1.7, 1.6, 1.5, 0.5, 2.0)
LANDMARK_EVIDENCE = 3  # coefficients
REFINEMENT = (len(EVIDENCE), 5, 4)  # evidence for a face, what landmarks say of its box, the box


@dataclass(frozen=True)
class Config(OverviewSettings, ConventionSettings):
    """Settings of KPNet; those of the weights travel with them.

    Attributes:
        backbone: "drnet", "hourglass" or "lite".
        learned: the convention of the boxes that the network was trained on, whose longer sides the proposals have.
        refinement: coefficients (6, 5, 4) of where boxes are to be expected, see ``refined``; ``None`` where none were
            fitted.
        proposal: without ``refinement``: how far inferred boxes are moved and resized to where and as large as the
            proposal is, in [0, 1]; 0 is the paper.
        calibration: knots of the map from the score, in [0, 1], to the share of such proposals that are faces; ``None``
            where none was fitted.
        evidence: coefficients of ``evidence``, whose weighted sum is the score's logit; ``None`` for the score of
            equation 8 over its largest value.
        landmark_evidence: coefficients of ``landmark_evidence``, whose weighted sum is the logit of a landmark's score;
            ``None`` for its peak as it is.
        nms: overlap above which the worse of two faces falls.
    """

    backbone: str = of_weights("drnet")
    learned: str | Mapping[str, Any] = "wider"
    refinement: Sequence[Sequence[Sequence[float]]] | None = None
    proposal: float = 0.7
    calibration: Mapping[str, Any] | None = None
    evidence: Sequence[float] | None = EVIDENCE
    landmark_evidence: Sequence[float] | None = None
    nms: float = 0.6

    @property
    def multiple(self) -> int:
        """What the sides of an input are multiples of."""
        return scales.GRIDS[self.backbone].multiple

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.backbone not in scales.GRIDS:
            raise OptionError(f"kpnet has no backbone {self.backbone!r}; there are: {', '.join(scales.GRIDS)}")
        if self.evidence is not None and len(self.evidence) != len(EVIDENCE):
            raise OptionError(f"evidence has {len(EVIDENCE)} coefficients, e.g. {EVIDENCE}, found {self.evidence}")
        if self.landmark_evidence is not None and np.shape(self.landmark_evidence) != (LANDMARK_EVIDENCE,):
            raise OptionError(
                f"landmark_evidence has {LANDMARK_EVIDENCE} coefficients or is null, found {self.landmark_evidence}"
            )
        shape = np.array(self.refinement, dtype=object).shape
        if self.refinement is not None and shape != REFINEMENT:
            raise OptionError(f"refinement has coefficients {REFINEMENT} or is null, found {shape}")


@dataclass(frozen=True)
class Proposals(Candidates):
    """Candidates and what they are made of.

    Attributes:
        evidence: (n, 6), see ``evidence``.
        squares: (n, 4) the network's proposals, and ...
        expected: (n, 4) ... the boxes of the convention it learned, as the landmarks tell them.
        landmark_evidence: (n, k, 3), see ``landmark_evidence``.
    """

    evidence: Array
    squares: Array
    expected: Array
    landmark_evidence: Array


class KPNetDecoder:
    """KPNet over a loaded file. Holds no state of a call, so any number of threads may share one."""

    def __init__(self, graph: Graph, config: Config) -> None:
        self.graph, self.config = graph, config
        self.schema = schema(config.landmarks)
        self.convention, self.learned = (
            convention(given) if isinstance(given, str) else Convention.from_dict(given)
            for given in (config.convention, config.learned)
        )
        self.calibration = Calibration.from_dict(config.calibration) if config.calibration else None
        self._refinement = None if config.refinement is None else np.array(config.refinement, np.float64)
        # the overlap of proposal and landmarks that speaks most for a face
        self._best_agreement = float(config.evidence is None or config.evidence[2] > 0)

    def __call__(
        self, images: Sequence[Array], *, threshold: float, min_face: float, max_face: float | None
    ) -> list[Faces]:
        """The faces of every image (h, w, 3) uint8 RGB, with scores of at least ``threshold``, best first."""
        if not images:
            return []
        found = self.propose(images, threshold)
        found = found[found.scores >= threshold].sized(min_face, max_face)
        return found.suppressed(self.config, self.config.nms, threshold).faces(images, self.schema)

    def propose(
        self, images: Sequence[Array], threshold: float = 0.0, *, surpassing: float = float(LOGITS[0])
    ) -> Proposals:
        """The proposals in every view of one or more images, scored and with their boxes, before suppression.

        Those that cannot reach the threshold, wherever their landmarks may be, are left out: nearly all, as a rule.

        Args:
            images: (h, w, 3) uint8 RGB. threshold: lowest score. surpassing: logit that theirs must surpass.
        """
        shown = Views(view for number, image in enumerate(images) for view in self.views(number, image))
        seen = [self._look(shown, numbers, pixels, threshold, surpassing) for numbers, pixels in shown.batches(AT_ONCE)]
        columns = [np.concatenate(parts) for parts in zip(*seen, strict=True)]
        _, logit, _, side, _, peaks = columns
        best = np.full(len(logit), self._best_agreement)
        likely = self._scores(logit, side, best, self._counted(peaks))[0] >= threshold
        view, logit, centre, side, points, peaks = (column[likely] for column in columns)
        points = shown.points(points, view, self.schema)
        half = side[:, None] / 2
        square = shown.boxes(np.concatenate([centre - half, centre + half], axis=1), view)
        expected = self.learned.boxes(points, self.schema)
        same = self.config.convention == self.config.learned
        inferred = expected if same else replace(self.convention, square=False).boxes(points, self.schema)
        around = box_ops.square(expected)
        scores, speaks = self._scores(logit, side, box_ops.overlap(around, square), self._counted(peaks))
        if self._refinement is None:
            boxes = corrected(inferred, around, square, self.config.proposal)
        else:
            boxes = corrected(inferred, expected, refined(expected, square, speaks, self._refinement))
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
        """The peaks (n, m) that count in equation 8, of those of all landmarks (n, k)."""
        return peaks[:, eyes_and_nose(self.schema)]

    def _scores(self, logit: Array, side: Array, agreement: Array, peaks: Array) -> tuple[Array, Array]:
        """Scores (n,) in [0, 1], and the evidence (n, 6) that they are made of; arguments as of ``evidence``."""
        speaks = evidence(logit, side, agreement, peaks)
        if self.config.evidence is None:
            scores = (sigmoid(logit) + peaks.sum(axis=1)) / (1 + peaks.shape[1])
        else:
            scores = sigmoid(speaks @ np.array(self.config.evidence))
        return self._calibrated(scores), speaks

    def _landmark_scores(self, peaks: Array, side: Array) -> tuple[Array, Array]:
        """Landmarks' scores (n, k) in [0, 1], and the evidence (n, k, 3) that they are made of."""
        speak = landmark_evidence(peaks, side)
        coefficients = self.config.landmark_evidence
        return peaks if coefficients is None else sigmoid(speak @ np.array(coefficients)), speak

    def _calibrated(self, scores: Array) -> Array:
        return self.calibration.apply(scores) if self.calibration else scores

    def faintest(self, threshold: float, largest: float = math.inf) -> float:
        """A logit that proposals of up to so many pixels must surpass to reach a threshold, whatever else speaks."""
        if self.config.evidence is None or self.config.evidence[0] <= 0:
            return float(LOGITS[0])
        own, *others = self.config.evidence
        sides = np.array([scales.SMALLEST, min(largest, scales.LARGEST)])
        extremes = evidence(np.zeros(2), sides, np.array([0, 1]), np.array([[0], [1]]))[:, 1:] * others
        reached = self._calibrated(sigmoid(own * LOGITS + extremes.max(axis=0).sum())) >= threshold
        return float(LOGITS[max(int(reached.argmax()) - 1, 0)] if reached.any() else LOGITS[-1])

    def views(self, number: int, image: Array) -> list[View]:
        """What the network is shown of an image, and which faces count in which view."""
        return looks(number, image, self.config, Limits(self.config.multiple, LARGEST_IN_WHOLE, OVERVIEW))

    def _look(
        self, shown: Views, numbers: Array, pixels: Array, threshold: float, surpassing: float
    ) -> tuple[Array, ...]:
        """The network over views of one shape: each proposal's view, and what the network says of it there."""
        reaching = [self.faintest(threshold, largest) for largest in shown.largest[numbers]]
        faintest = np.maximum(reaching, surpassing).astype(np.float32)
        outputs = ("logit", "centre", "side", "landmarks", "peaks")
        found = self.graph("kpnet", outputs, pixels=pixels, threshold=faintest)
        row, rank = np.nonzero((found[0] > faintest[:, None]) & shown.counts(found[2], numbers[:, None]))
        logit, centre, side, points, peaks = (values[row, rank] for values in found)
        columns = self.config.columns
        return numbers[row], logit.astype(np.float64), centre, side, points[:, columns], peaks[:, columns]


def evidence(logit: Array, side: Array, agreement: Array, peaks: Array) -> Array:
    """What speaks for a proposal being a face (n, 6), each so that a linear function of all is the logit of that.

    Equation 8 adds a probability and softmax values that are the larger the fewer cells a region has. Here they count
    as logarithms, beside the region's size and what else can be known.

    Args:
        logit: (n,) of the scale's probability. side: (n,) of the proposal, in pixels of the input.
        agreement: (n,) intersection over union of the proposal and the square around the box that the landmarks yield.
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
    """What speaks for landmarks being near their true places (n, k, 3): their peaks, and the size of the face.

    A peak says how much of a landmark's softmax lies in one cell. The fewer cells a region has, the larger is even that
    of a flat response, so the size counts as well.

    Args:
        peaks: (n, k) largest softmax values. side: (n,) of the proposal, in pixels of the input.
    """
    size = np.broadcast_to(np.log2(side / 32)[:, None], peaks.shape)
    return np.stack([np.log(peaks + 1e-3), size, np.ones(peaks.shape)], axis=-1).astype(np.float64)


def eyes_and_nose(landmarks: Schema) -> tuple[int, ...]:
    """Indices of the landmarks whose peaks equation 8 counts: all that make the eyes and the nose of five points.

    Where a schema has no map to five points, all of its landmarks count.
    """
    if landmarks == FIVE:
        return (0, 1, 2)
    parts = MAPS.get((landmarks.name, FIVE.name), [range(len(landmarks))])
    return tuple(sorted({index for part in parts[:3] for index in part}))


def corrected(boxes: Array, expected: Array, seen: Array, share: float = 1.0) -> Array:
    """Boxes (n, 4) moved and resized by a share of what lies between two others, so that conventions keep their say.

    Args:
        boxes: (n, 4) to correct. expected: (n, 4) what the same landmarks let expect of ``seen``. seen: (n, 4).
        share: 0 for the boxes as they are, 1 to follow all that was seen.
    """
    grown = (seen[:, 2:] - seen[:, :2]) / (expected[:, 2:] - expected[:, :2])
    moved = (seen[:, :2] + seen[:, 2:] - expected[:, :2] - expected[:, 2:]) / 2
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2 + share * moved
    half = (boxes[:, 2:] - boxes[:, :2]) / 2 * (1 + share * (grown - 1))
    return np.concatenate([centre - half, centre + half], axis=1)


def refined(expected: Array, squares: Array, speaks: Array, coefficients: Array) -> Array:
    """Ours: where boxes are to be expected, (n, 4), by the landmarks and the proposals together.

    How much either counts hangs on how large the face is and how sure the network: offsets from the proposal (as of
    R-CNN) are a linear function of the landmarks' own, whose coefficients are one of the evidence.

    Args:
        expected: (n, 4) boxes as the landmarks tell them. squares: (n, 4) the proposals. speaks: (n, 6) see
            ``evidence``. coefficients: (6, 5, 4) by evidence, ``terms`` and offset.
    """
    offsets = np.einsum("ne,nt,eto->no", speaks, terms(expected, squares), coefficients)
    return box_ops.decode_rcnn(np.clip(offsets, -1, 1), squares)


def terms(expected: Array, squares: Array) -> Array:
    """What ``refined`` is linear in (n, 5): offsets of a box from a square, as of R-CNN, and 1."""
    with np.errstate(divide="ignore", invalid="ignore"):  # landmarks on one spot
        offsets = np.clip(box_ops.encode_rcnn(expected, squares), -2, 2)
    return np.concatenate([offsets, np.ones((len(offsets), 1))], axis=1)
