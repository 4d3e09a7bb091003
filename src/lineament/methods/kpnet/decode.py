"""KPNet at inference (Song et al. 2020): views of a picture, proposals with landmarks, boxes inferred from them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lineament import boxes as box_ops
from lineament.calibration import Calibration
from lineament.conventions import Convention, convention
from lineament.errors import OptionError
from lineament.faces import Faces
from lineament.images import resize
from lineament.methods.candidates import Candidates
from lineament.methods.kpnet import scales
from lineament.methods.settings import DetectorSettings
from lineament.runtime import Graph
from lineament.schemas import schema
from lineament.weights import of_weights

Array = NDArray[Any]

# Side in pixels of the input up to which a find counts where the overview shows it, too: landmarks of larger ones are
# less exact, and most of what seems that large is no face.
MOST = 96.0
OVERLAP = 0.8  # share of the largest side in one view that is the smallest in the next
OVERVIEW = 160  # longer edge in pixels of the largest overview
SMALLEST = 64  # longer edge in pixels of the smallest overview
MOST_IN_TILES = 160.0  # more, as a whole large picture may show such a face too small
AT_ONCE = 1 << 20  # pixels of views in one pass: bounds activations to about 500 MB
LOGITS = np.linspace(-12, 12, 97)  # of proposals; below the first there is none at any threshold


# A start for what a training fits to its validation photos.
EVIDENCE = (2.0, 1.7, 1.6, 1.5, 0.5, 2.0)
REFINEMENT = (len(EVIDENCE), 5, 4)  # what speaks for a face, what landmarks say of its box, the box


@dataclass(frozen=True)
class Config(DetectorSettings):
    """Settings of KPNet; those of the weights travel with them.

    Attributes:
        backbone: "drnet", "hourglass" or "lite".
        multiple: what the sides of an input are multiples of.
        input_size: longer edge in pixels to which a picture is brought.
        overview: also look at the picture in at most 160 pixels, for faces of more than 96 pixels of the input.
        overview_share: size of the overview for one of the input, up to those 160 pixels, in (0, 1].
        tiles: also look at overlapping tiles of ``input_size`` in the picture's own resolution.
        overlap: share of a tile's side that it has in common with the next.
        margin: black around the picture, as a share of the input, so that faces that fill it have room.
        convention: how boxes are inferred from landmarks: a name, or a fitted convention as a dictionary.
        learned: the convention of the boxes that the network was trained on, whose longer sides the proposals have.
        refinement: coefficients (6, 5, 4) of where boxes are to be expected, see ``refined``; ``None`` where none were
            fitted.
        proposal: without them, how far inferred boxes are moved and resized to where and as large as the proposal is,
            in [0, 1].
        calibration: knots of the map from the score, in [0, 1], to the share of such finds that are faces; ``None``
            where none was fitted.
        evidence: coefficients of what speaks for a face, in the order of ``evidence``, whose sum is the score's logit;
            ``None`` for the score of equation 8 over its largest value.
        nms: intersection over union above which the worse face falls.
    """

    backbone: str = of_weights("drnet")
    multiple: int = of_weights(8)
    input_size: int = 640
    overview: bool = True
    overview_share: float = 0.375
    tiles: bool = False
    overlap: float = 0.25
    margin: float = 0.0
    convention: str | Mapping[str, Any] = "wider"
    learned: str | Mapping[str, Any] = "wider"
    refinement: Sequence[Sequence[Sequence[float]]] | None = None
    proposal: float = 0.7
    calibration: Mapping[str, Any] | None = None
    evidence: Sequence[float] | None = EVIDENCE
    nms: float = 0.6

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.input_size < 64:
            raise OptionError(f"input_size is the longer edge in pixels, at least 64, found {self.input_size}")
        if not 0 <= self.overlap < 1 or not 0 <= self.margin < 0.5:
            raise OptionError(f"overlap lies in [0, 1) and margin in [0, 0.5), found {self.overlap}, {self.margin}")
        if not 0 < self.overview_share <= 1:
            raise OptionError(f"overview_share lies in (0, 1], found {self.overview_share}; overview=false is none")
        if self.evidence is not None and len(self.evidence) != len(EVIDENCE):
            raise OptionError(f"evidence has {len(EVIDENCE)} coefficients, e.g. {EVIDENCE}, found {self.evidence}")
        shape = np.array(self.refinement, dtype=object).shape
        if self.refinement is not None and shape != REFINEMENT:
            raise OptionError(f"refinement has coefficients {REFINEMENT} or is null, found {shape}")


@dataclass(frozen=True)
class View:
    """A part of a picture as the network sees it.

    Attributes:
        picture: index of the picture.
        pixels: (h, w, 3) uint8, black where the picture ends.
        scale: pixels of the view for one of the picture.
        corner: (2,), the view's corner in pixels of the picture.
        least, most: sides in pixels of the view of the smallest and the largest face that count; others are another
            view's.
    """

    picture: int
    pixels: Array
    scale: float
    corner: Array
    least: float = 0.0
    most: float = math.inf


@dataclass(frozen=True)
class Proposals(Candidates):
    """Candidates with what speaks for them.

    Attributes:
        evidence: (n, 6), see ``evidence``.
        squares: (n, 4) the network's proposals, and ...
        expected: (n, 4) ... the boxes that it learned of, as the landmarks tell them.
    """

    evidence: Array
    squares: Array
    expected: Array


class KPNet:
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
        """The faces of every picture (h, w, 3) uint8 RGB, with scores of at least ``threshold``, best first."""
        if not images:
            return []
        found = self.propose(images, threshold)
        side = (found.boxes[:, 2:] - found.boxes[:, :2]).max(axis=1, initial=0)
        wanted = (found.scores >= threshold) & (side >= min_face) & (side <= (max_face or np.inf))
        found = found[wanted]
        found = found[box_ops.nms(found.boxes, found.scores, self.config.nms, groups=found.picture)]
        return found.faces(images, self.schema)

    def propose(self, images: Sequence[Array], threshold: float = 0.0) -> Proposals:
        """The proposals in every view of one or more pictures, scored and with their boxes, before suppression.

        Those that cannot reach the threshold, wherever their landmarks may be, are left out: nearly all, as a rule.
        """
        views = [view for i, image in enumerate(images) for view in self.views(i, image)]
        views.sort(key=lambda view: (view.pixels.shape, view.picture))
        seen = []
        for shape, alike in groupby(enumerate(views), key=lambda item: item[1].pixels.shape):
            group = list(alike)
            step = max(AT_ONCE // (shape[0] * shape[1]), 1)
            seen += [self._look(group[i : i + step], threshold) for i in range(0, len(group), step)]
        columns = [np.concatenate(parts) for parts in zip(*seen, strict=True)]
        _, logit, _, side, _, peaks = columns
        likely = self._scores(logit, side, np.full(len(logit), self._best_agreement), peaks)[0] >= threshold
        number, logit, centre, side, points, peaks = (column[likely] for column in columns)
        points = points[:, self.config.columns]
        scale, corner = np.array([v.scale for v in views])[number], np.stack([v.corner for v in views])[number]
        points = points / scale[:, None, None] + corner[:, None]
        middle, half = centre / scale[:, None] + corner, side[:, None] / scale[:, None] / 2
        square = np.concatenate([middle - half, middle + half], axis=1)
        expected = self.learned.boxes(points, self.schema)
        same = self.config.convention == self.config.learned
        inferred = expected if same else replace(self.convention, square=False).boxes(points, self.schema)
        around = box_ops.square(expected)
        scores, speaks = self._scores(logit, side, box_ops.overlap(around, square), peaks)
        if self._refinement is None:
            boxes = corrected(inferred, around, square, self.config.proposal)
        else:
            boxes = corrected(inferred, expected, refined(expected, square, speaks, self._refinement))
        return Proposals(
            boxes=box_ops.square(boxes) if self.convention.square else boxes,
            scores=scores,
            landmarks=points,
            picture=np.array([v.picture for v in views], np.intp)[number],
            evidence=speaks,
            squares=square,
            expected=expected,
        )

    def _scores(self, logit: Array, side: Array, agreement: Array, peaks: Array) -> tuple[Array, Array]:
        """Scores (n,) in [0, 1], and the evidence (n, 6) that they are made of; arguments as of ``evidence``."""
        speaks = evidence(logit, side, agreement, peaks)
        if self.config.evidence is None:
            scores = (sigmoid(logit) + peaks.sum(axis=1)) / (1 + peaks.shape[1])
        else:
            scores = sigmoid(speaks @ np.array(self.config.evidence))
        return self._calibrated(scores), speaks

    def _calibrated(self, scores: Array) -> Array:
        return self.calibration.apply(scores) if self.calibration else scores

    def least(self, threshold: float, most: float = math.inf) -> float:
        """A logit that proposals of up to so many pixels must surpass to reach a threshold, whatever else speaks."""
        if self.config.evidence is None or self.config.evidence[0] <= 0:
            return float(LOGITS[0])
        own, *others = self.config.evidence
        sides = np.array([scales.SMALLEST, min(most, scales.LARGEST)])
        extremes = evidence(np.zeros(2), sides, np.array([0, 1]), np.array([[0], [1]]))[:, 1:] * others
        reached = self._calibrated(sigmoid(own * LOGITS + extremes.max(axis=0).sum())) >= threshold
        return float(LOGITS[max(int(reached.argmax()) - 1, 0)] if reached.any() else LOGITS[-1])

    def views(self, picture: int, image: Array) -> Iterator[View]:
        """What the network is shown of a picture."""
        c = self.config
        h, w = image.shape[:2]
        border = round(c.margin * c.input_size)
        scale = (c.input_size - 2 * border) / max(h, w)
        tiled = c.tiles and max(h, w) > c.input_size
        whole = view(picture, image, scale, np.zeros(2, int), (w, h), border, c.multiple)
        if tiled:  # which show larger what is small enough to lie whole in one of them, wherever it is
            whole = replace(whole, least=OVERLAP * min(c.overlap * c.input_size, MOST_IN_TILES) * scale)
        size = min(c.overview_share * c.input_size, OVERVIEW)
        if c.overview and size >= SMALLEST:
            yield replace(whole, most=MOST)
            # of the view, as to shrink a large photo once more would take far longer
            h2, w2 = whole.pixels.shape[:2]
            ratio = size / max(h2, w2)
            small = view(picture, whole.pixels, ratio, np.zeros(2, int), (w2, h2), 0, c.multiple)
            least = OVERLAP * MOST * ratio
            yield replace(small, scale=ratio * scale, corner=whole.corner, least=least)
        else:
            yield whole
        if tiled:
            side = c.input_size
            for top in _starts(h, side, c.overlap):
                for left in _starts(w, side, c.overlap):
                    tile = view(picture, image, 1.0, np.array([left, top]), (side, side), 0, c.multiple)
                    yield replace(tile, most=MOST_IN_TILES)

    def _look(self, views: Sequence[tuple[int, View]], threshold: float) -> tuple[Array, ...]:
        """The network over numbered views of one shape: each find's view, and what the network says of it there."""
        numbers, shown = zip(*views, strict=True)
        faintest = np.array([self.least(threshold, view.most) for view in shown], np.float32)
        outputs = ("logit", "centre", "side", "landmarks", "peaks")
        found = self.graph("kpnet", outputs, pixels=np.stack([view.pixels for view in shown]), least=faintest)
        logit, side = found[0].astype(np.float64), found[2]
        least, most = np.array([(view.least, view.most) for view in shown]).T[..., None]
        counts = np.nonzero((logit > faintest[:, None]) & (side >= least) & (side <= most))
        return np.array(numbers)[counts[0]], logit[counts], *(values[counts] for values in found[1:])


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


def sigmoid(logits: Array) -> Array:
    """Probabilities of logits, any shape."""
    return np.asarray(1 / (1 + np.exp(-logits)))


def view(
    picture: int,
    image: Array,
    scale: float,
    corner: Array,
    size: tuple[int, int],
    border: int,
    multiple: int,
) -> View:
    """A view of the part of an image that begins at ``corner`` and is ``size`` (width, height) long, in its pixels.

    Black are the border, what is beyond the image, and what fills the view up to a multiple. As in a letterbox one
    scale holds for both axes: a last row that the part would fill only in part is left out.
    """
    h, w = image.shape[:2]
    part = np.minimum(np.array([w, h]) - corner, size)
    # 1e-9: 300 * (256 / 300) must not floor to 255
    new_w, new_h = (max(1, math.floor(n * scale + 1e-9)) for n in part)
    full = [math.ceil((n + 2 * border) / multiple) * multiple for n in (new_h, new_w)]
    pixels = np.zeros((*full, 3), np.uint8)
    box = (
        float(corner[0]),
        float(corner[1]),
        min(corner[0] + part[0], corner[0] + new_w / scale),
        min(corner[1] + part[1], corner[1] + new_h / scale),
    )
    pixels[border : border + new_h, border : border + new_w] = resize(image, (new_w, new_h), box=box, means=True)
    return View(picture, pixels, scale, corner - border / scale)


def _starts(length: int, side: int, overlap: float) -> list[int]:
    """Where tiles begin that cover a length, the last flush with its end."""
    count = max(math.ceil((length - side * overlap) / (side * (1 - overlap))), 1)
    return np.linspace(0, max(length - side, 0), count).round().astype(int).tolist()
