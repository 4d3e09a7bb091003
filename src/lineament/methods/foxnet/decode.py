"""FoxNet at inference (Wu et al. 2019): landmark candidates in views of an image, grouped into faces by mean shift."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from lineament import boxes as box_ops
from lineament import similarity
from lineament.calibration import Calibration, logit, sigmoid
from lineament.conventions import convention
from lineament.errors import OptionError, WeightsError
from lineament.faces import Faces
from lineament.methods.candidates import Candidates, joined
from lineament.methods.foxnet import cluster
from lineament.methods.looks import Limits, OverviewSettings, looks
from lineament.methods.settings import ConventionSettings, Share
from lineament.runtime import Graph
from lineament.schemas import schema
from lineament.views import View, Views
from lineament.weights import of_weights

Array = NDArray[Any]

AT_ONCE = 1 << 20  # pixels of views per batch: limits activations to about 500 MB
LARGEST = 160.0  # largest side, in pixels of the input, of a face that counts if the overview shows it, too
OVERVIEW = 256.0  # longer edge in pixels of the largest overview
SMALL, LARGE = 16.0, 48.0
"""Longer sides in pixels of the view: up to the first, a face is small; from the second on, it is large."""
SPARE = 1.6  # largest ratio of the predicted size of a face and the side of its box, either way
SIDES = 6.0, 256.0
"""Sides in pixels outside of which a face counts as evidence as if it had the nearer one."""
FAINT = 1e-4
"""Probabilities nearer to 0 or 1 count as evidence as this far from it."""
EVIDENCE = 4  # coefficients of ``evidence``
PLACED = 2  # smallest number of landmarks of a face: one does not give a box


@dataclass(frozen=True)
class Config(OverviewSettings, ConventionSettings):
    """Settings of FoxNet.

    Attributes:
        overview_share: Longer edge of the overview relative to the input, in (0, 1]. Landmarks of large faces come from
            there, and their maps have cells of four pixels, so it is larger than that of other methods.
        distance: Distance with which the embeddings were trained, "cosine" or "euclidean".
        inner: delta_v with which the embeddings were trained.
        multiple: The sides of an input are multiples of this.
        candidate: Lowest probability of a landmark candidate, in (0, 1).
        fill: Place landmarks without a candidate by a mean shape, fitted to the other landmarks. Their scores stay 0.
            Otherwise they are NaN.
        shapes: Mean shape (k, 2) of the landmarks of each schema, for ``fill``.
        nms: Overlap above which non-maximum suppression removes the lower-scoring of two boxes, in [0, 1].
        learned: For each schema the conventions of the boxes of small and large faces, fitted to the network's own
            landmarks, which are less accurate than labels. ``None``: boxes follow from the landmarks by ``convention``
            alone. Otherwise a ``convention`` other than "wider" changes these boxes as it changes those of "wider".
        evidence: For each schema the coefficients of ``evidence``, whose weighted sum is the logit of the score.
            ``None``: the score is the mean probability of the landmarks.
        calibration: For each schema the knots of the map from that score to the fraction of such detections that are
            faces. ``None``: no map.
        landmark_calibration: For each schema the knots of the map from the probability of a landmark to the fraction of
            such landmarks that are correct. ``None``: the score is the probability.
    """

    overview_share: Annotated[float, Meta(gt=0, le=1)] = 0.6
    distance: str = of_weights("cosine")
    inner: float = of_weights(0.1)
    multiple: int = of_weights(64)
    candidate: Annotated[float, Meta(gt=0, lt=1)] = 0.1
    fill: bool = False
    shapes: Mapping[str, Sequence[Sequence[float]]] | None = None
    nms: Share = 0.5
    learned: Mapping[str, Sequence[Mapping[str, Any]]] | None = None
    evidence: Mapping[str, Sequence[float]] | None = None
    calibration: Mapping[str, Mapping[str, Any]] | None = None
    landmark_calibration: Mapping[str, Mapping[str, Any]] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.fill and self.landmarks != "5" and self.landmarks not in (self.shapes or {}):
            raise OptionError(
                f"fill needs the mean shape of {self.landmarks!r}, which these weights lack: set shapes, or fill=false"
            )
        for name, what, number in (("learned", "conventions", 2), ("evidence", "coefficients", EVIDENCE)):
            for key, found in (getattr(self, name) or {}).items():
                if len(found) != number:
                    raise OptionError(f"{name} has {number} {what} for each schema, found {len(found)} for {key!r}")


@dataclass(frozen=True)
class Scored(Candidates):
    """Candidates with the evidence for them.

    Attributes:
        evidence: (n, 4), see ``evidence``.
    """

    evidence: Array


def may_count(size: Array, numbers: Array, shown: Views) -> Array:
    """Whether candidates may be of faces that count in their view (v, n): the others need no grouping.

    Args:
        size: (v, n) predicted sizes of their faces in pixels of the view.
        numbers: (v,) numbers of the views.
        shown: All views.
    """
    smallest, largest = shown.smallest[numbers, None], shown.largest[numbers, None]
    return np.asarray((size * SPARE >= smallest) & (size <= largest * SPARE))


class FoxNetDecoder:
    """FoxNet with a loaded file. It keeps no state between calls, so threads may share it."""

    def __init__(self, graph: Graph, config: Config) -> None:
        self.graph, self.config = graph, config
        self.schema = schema(config.landmarks)
        self.width = cluster.bandwidth(config.distance, config.inner)
        self.convention = convention(config.convention)
        name = self.schema.name
        self.learned = [convention(one) for one in (config.learned or {}).get(name, ())]
        self.weights = (config.evidence or {}).get(name)
        self.calibration, self.landmark_calibration = (
            Calibration.from_dict(knots[name]) if knots and name in knots else None
            for knots in (config.calibration, config.landmark_calibration)
        )

    def __call__(
        self, images: Sequence[Array], *, threshold: float, min_face: float, max_face: float | None
    ) -> list[Faces]:
        """Detect the faces in images (h, w, 3) uint8 RGB with scores of at least ``threshold``, best first.

        Raises:
            WeightsError: The network's outputs are not finite: the weights are damaged, or their training diverged.
        """
        if not images:
            return []
        found = self.candidates(images)
        found = found[found.scores >= threshold].sized(min_face, max_face)
        return found.suppressed(self.config, self.config.nms, threshold).faces(images, self.schema)

    def candidates(self, images: Sequence[Array]) -> Scored:
        """The faces in all views of images (h, w, 3) uint8 RGB, before thresholds and suppression. At least one image.

        Raises:
            WeightsError: As in ``__call__``.
        """
        shown = Views(view for number, image in enumerate(images) for view in self.views(number, image))
        return joined([self._look(shown, *batch) for batch in shown.batches(AT_ONCE)])

    def views(self, number: int, image: Array) -> list[View]:
        """The views of an image for the network, each with the sizes of faces that count in it."""
        return looks(number, image, self.config, Limits(self.config.multiple, LARGEST, OVERVIEW))

    def _look(self, shown: Views, numbers: Array, pixels: Array) -> Scored:
        """The faces in views of one shape."""
        entry, wanted = f"foxnet_{self.schema.name}", ("peak", "place", "score", "embedding", "size")
        peak, place, score, embedding, size = self.graph(entry, wanted, pixels=pixels)
        if np.isnan(score).any():
            raise WeightsError(
                "scores of landmark candidates are not numbers: these weights are damaged, or their training diverged"
            )
        row, column = np.nonzero((score > logit(self.config.candidate)) & may_count(size, numbers, shown))
        peak, place, score, embedding, size = (v[row, column] for v in (peak, place, score, embedding, size))
        probability = sigmoid(score)
        points = place.astype(np.float64)
        face, chosen = self.group(embedding, points, size, probability, peak[:, 0].astype(int), row)
        there = chosen >= 0
        landmarks = np.where(there[..., None], points[chosen], np.nan)
        chances = np.where(there, probability[chosen], 0)
        view = numbers[row[face]]
        kept = there.sum(axis=1) >= PLACED
        landmarks, chances, view = landmarks[kept], chances[kept], view[kept]
        in_view = self._boxes(landmarks)
        kept = np.isfinite(in_view).all(axis=1) & shown.counts(in_view, view)
        landmarks = self.filled(landmarks) if self.config.fill else landmarks
        landmarks, chances, view, in_view = (v[kept] for v in (landmarks, chances, view, in_view))
        landmarks = shown.points(landmarks, view, self.schema)
        speaks = evidence(chances.mean(axis=1), box_ops.longer_side(in_view))
        return Scored(
            boxes=shown.boxes(in_view, view),
            scores=self._scores(chances.mean(axis=1), speaks),
            landmarks=landmarks,
            landmark_scores=shown.each(self._sure(chances), view, self.schema),
            image=shown.image[view],
            evidence=speaks,
        )

    def group(
        self, embedding: Array, points: Array, size: Array, probability: Array, landmark: Array, view: Array
    ) -> tuple[Array, Array]:
        """Group candidates into faces.

        Args:
            embedding: (n, d), not normalised.
            points: (n, 2) in pixels of the input.
            size: (n,) predicted sizes of their faces, in pixels of the input.
            probability: (n,) in [0, 1].
            landmark: (n,) index of each candidate's landmark.
            view: (n,) integers. Only candidates of one view are compared.

        Returns:
            The index (m,) of one candidate of each face, and the indices (m, k) of the candidates for its landmarks,
            -1 if missing.

        Raises:
            WeightsError: An embedding is not finite.
        """
        if self.config.distance == "cosine":
            embedding = embedding / np.maximum(np.linalg.norm(embedding, axis=1, keepdims=True), 1e-6)
        face = cluster.faces(embedding, points, size, probability, view, width=self.width)
        return cluster.best(face, landmark, probability, len(self.schema))

    def filled(self, landmarks: Array) -> Array:
        """Replace NaN in landmarks (n, k, 2) by the mean shape, fitted to the others with a similarity transform."""
        shapes = self.config.shapes or {}
        shape = np.array(shapes[self.schema.name]) if self.schema.name in shapes else convention("wider").shape
        fits = similarity.fit(np.broadcast_to(shape, landmarks.shape), landmarks)
        return np.where(np.isnan(landmarks), similarity.transform(shape, fits), landmarks)

    def _boxes(self, landmarks: Array) -> Array:
        """The boxes (n, 4) of landmarks (n, k, 2) in pixels of the view. The convention of large faces fades in."""
        inferred = self.convention.boxes(landmarks, self.schema)
        if not self.learned:
            return inferred
        expected = convention("wider").boxes(landmarks, self.schema)
        small, large = (one.boxes(landmarks, self.schema) for one in self.learned)
        share = largeness(box_ops.longer_side(expected))[:, None]
        boxes = box_ops.corrected(inferred, expected, small + share * (large - small))
        return box_ops.square(boxes) if self.convention.square else boxes

    def _scores(self, probability: Array, speaks: Array) -> Array:
        """The scores of faces from the mean probabilities of their landmarks and the evidence for them."""
        scores = probability if self.weights is None else sigmoid(speaks @ np.array(self.weights))
        return self.calibration.apply(scores) if self.calibration else scores

    def _sure(self, chances: Array) -> Array:
        """The scores of landmarks from their probabilities. 0 for missing ones."""
        if self.landmark_calibration is None:
            return chances
        return np.where(chances > 0, self.landmark_calibration.apply(chances), 0)


def evidence(probability: Array, side: Array) -> Array:
    """Evidence for faces (n, 4). A linear function of it is the logit of the probability of a face.

    Boxes of small faces are less accurate, and the best probabilities are rarer there. So the size counts, too.

    Args:
        probability: (n,) mean probability of the landmarks, in [0, 1].
        side: (n,) longer side of the box, in pixels of the view.
    """
    size = np.log2(np.clip(side, *SIDES) / 32)
    return np.stack([logit(np.clip(probability, FAINT, 1 - FAINT)), size, size**2, np.ones(len(size))], axis=1)


def largeness(side: Array) -> Array:
    """How large faces are by their longer sides (n,) in pixels of the view: 0 up to `SMALL`, 1 from `LARGE` on."""
    return np.asarray(np.clip(np.log2(np.maximum(side, 1) / SMALL) / np.log2(LARGE / SMALL), 0, 1))
