"""What is fitted to labelled photos after training: how boxes are made, and what scores mean.

No weight changes. Boxes are refined on training canvases (`fit_refinement`). Scores of faces are made (`fit_evidence`)
and calibrated on validation photos, and so are scores of landmarks (`fit_landmark_evidence`).
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lineament import boxes as box_ops
from lineament.calibration import fit, logistic, robust, sigmoid
from lineament.data.cache import Photos
from lineament.data.canvases import Canvas
from lineament.methods.judging import judged as match
from lineament.methods.judging import nearest, right
from lineament.methods.kpnet.decode import (
    EVIDENCE,
    LANDMARK_EVIDENCE,
    REFINEMENT,
    Config,
    KPNetDecoder,
    terms,
)
from lineament.runtime import Graph

Array = NDArray[Any]

CANVASES = 1024
"""Training canvases to which boxes are fitted."""
LEAST_FITTED = 1000
"""Smallest number of faces on them with a proposal."""
DOUBTFUL = -5.0
"""Logit of a face's probability above which proposals are used: 0.0067. Lower ones are never returned."""
SIZES = (256, 384, 640)
"""Input sizes, in pixels. Their mean average precision decides the sizes to which scores are fitted."""
FOLDS = 5
"""Parts of the validation photos. Each is scored with what was fitted to the others."""
_log = logging.getLogger(__name__)


def fitted(
    graph: Graph,
    config: Config,
    *,
    photos: Photos,
    canvases: Iterable[Canvas] | None,
    canvas: int,
    given: Collection[str] = (),
) -> dict[str, Any]:
    """Fit the settings of a file that depend on labelled photos.

    Args:
        graph: The file.
        config: Its settings.
        photos: Validation photos.
        canvases: Training canvases, `CANVASES` of them. ``None`` keeps the refinement.
        canvas: Side of the training canvases in pixels, a size at which the network is accurate.
        given: Names of settings to keep.

    Returns:
        Values of ``refinement``, ``evidence``, ``calibration`` and ``landmark_evidence``. Settings that are kept or
        cannot be fitted are left out. For the latter, the log has the reason.
    """
    evidence = config.evidence if "evidence" in given else EVIDENCE
    config = replace(config, evidence=evidence, calibration=None, landmark_evidence=None)
    fits: dict[str, Any] = {}
    if canvases is not None and "refinement" not in given:
        by_canvases = KPNetDecoder(graph, replace(config, input_size=canvas, overview=False))
        fits["refinement"] = fit_refinement(by_canvases, canvases)
        config = replace(config, refinement=fits["refinement"])
    shown = config.input_size
    finds = {
        size: judged(KPNetDecoder(graph, replace(config, input_size=size)), photos)
        for size in sorted({*SIZES, canvas, shown})
    }
    told = finds[shown].is_face
    if told.all() or not told.any():
        _log.warning("scores are not calibrated: %d of %d proposals are faces", told.sum(), len(told))
    else:
        scores = finds[shown].scores
        if "evidence" not in given:
            faces = sum(int((~sample.ignore).sum()) for sample in photos.samples)
            coefficients = fit_evidence(finds, faces, shown=shown, canvas=canvas)
            scores = sigmoid(finds[shown].evidence @ coefficients)
            fits["evidence"] = coefficients.round(4).tolist()
        fits["calibration"] = fit(scores, told).to_dict()
    fits["landmark_evidence"] = fit_landmark_evidence(finds.values())
    return {name: value for name, value in fits.items() if value is not None and name not in given}


def fit_refinement(decoder: KPNetDecoder, canvases: Iterable[Canvas]) -> list[Any] | None:
    """Fit the coefficients of ``decode.refined`` to the boxes of faces on canvases.

    Each face counts once, with its most probable proposal. A large face has dozens of others, which suppression
    removes. A mirrored face has the mirrored box. ``None`` if there are too few faces.
    """
    parts = []
    for canvas in canvases:
        found = decoder.propose([canvas.pixels], surpassing=DOUBTFUL)
        found = found[np.asarray(np.isfinite(found.expected).all(axis=1))]
        found = found[np.argsort(-found.scores, kind="stable")]
        faces = canvas.boxes[~canvas.ignore]
        face = nearest(found.squares, box_ops.square(faces), 0.3)
        which, first = np.unique(face[face >= 0], return_index=True)
        found, truth = found[np.flatnonzero(face >= 0)[first]], faces[which]
        parts.append((found.evidence, terms(found.expected, found.squares), box_ops.encode_rcnn(truth, found.squares)))
    count = sum(len(truth) for *_, truth in parts)
    if count < LEAST_FITTED:
        _log.warning("boxes are not refined: %d faces on the training's canvases are too few to fit to", count)
        return None
    speaks, told, wanted = map(np.concatenate, zip(*parts, strict=True))
    coefficients = np.zeros(REFINEMENT)
    for offset, counting in enumerate(([0], [1, 2, 3, 4], [1, 2, 3, 4], [1, 2, 3, 4])):
        features = (speaks[:, :, None] * told[:, None, counting]).reshape(len(told), -1)
        coefficients[:, counting, offset] = robust(features, wanted[:, offset]).reshape(-1, len(counting))
    return list(coefficients.round(5).tolist())


class Finds(NamedTuple):
    """Proposals in labelled photos after suppression, without those on ignored regions.

    Attributes:
        scores: (n,).
        evidence: (n, 6), see ``decode.evidence``.
        face: (n,) index of the photo's face that a proposal matches, -1 for none.
        photo: (n,) index of the photo.
        landmark_evidence: (m, k, 3), see ``decode.landmark_evidence``, of the m proposals that are faces.
        near: (m, k) 1 for a correct landmark, 0 for a wrong one, NaN if not labelled.
    """

    scores: Array
    evidence: Array
    face: Array
    photo: Array
    landmark_evidence: Array
    near: Array

    @property
    def is_face(self) -> Array:
        """(n,) bool."""
        return np.asarray(self.face >= 0)


def judged(decoder: KPNetDecoder, photos: Photos) -> Finds:
    """Run a decoder on labelled photos, above the logit `DOUBTFUL`."""
    parts = []
    for i, sample in enumerate(photos.samples):
        found = decoder.propose([photos[i]], surpassing=DOUBTFUL)
        found = found[box_ops.nms(found.boxes, found.scores, decoder.config.nms)]
        counts, face = match(found.boxes, sample)
        found = found[counts]
        faces = found[face >= 0]
        near = right(faces.landmarks, sample, face[face >= 0])
        photo = np.full(len(found), i)
        parts.append(Finds(found.scores, found.evidence, face, photo, faces.landmark_evidence, near))
    return Finds(*map(np.concatenate, zip(*parts, strict=True)))


def fit_evidence(finds: Mapping[int, Finds], faces: int, *, shown: int, canvas: int) -> Array:
    """Fit the coefficients (6,) of ``decode.evidence``.

    Scores that are fitted at a large input alone may rank small faces too low, and those fitted at a small input too
    high. So they are fitted at the size of a canvas, at the default size, or at both: whichever has the highest average
    precision in cross-validation over photos, averaged over `SIZES`.

    Args:
        finds: Proposals by input size: `SIZES` and the two others.
        faces: Number of faces in all photos.
        shown: Default input size.
        canvas: Size of a canvas.
    """
    choices = list(dict.fromkeys([(canvas, shown), (shown,), (canvas,)]))
    precision = {sizes: held_out_precision(finds, sizes, faces) for sizes in choices}
    best = max(choices, key=lambda sizes: precision[sizes])  # of equals the first
    _log.info("scores are fitted at %s: average precision %s", best, {s: round(p, 4) for s, p in precision.items()})
    return _coefficients([finds[size] for size in best])


def held_out_precision(finds: Mapping[int, Finds], sizes: Sequence[int], faces: int) -> float:
    """Mean average precision at `SIZES` of scores fitted at given sizes, in cross-validation over photos.

    0 if there are too few photos for the folds.
    """
    scores = {size: np.zeros(len(finds[size].face)) for size in SIZES}
    for fold in range(FOLDS):
        others = [select(finds[size], finds[size].photo % FOLDS != fold) for size in sizes]
        told = np.concatenate([found.is_face for found in others])
        if told.all() or not told.any():
            return 0.0
        coefficients = _coefficients(others)
        for size in SIZES:
            held_out = finds[size].photo % FOLDS == fold
            scores[size][held_out] = finds[size].evidence[held_out] @ coefficients
    return float(np.mean([average_precision(scores[size], finds[size], faces) for size in SIZES]))


def average_precision(scores: Array, finds: Finds, faces: int) -> float:
    """Average precision over all ``faces`` from scores (n,). Missed faces count 0.

    Of several detections of a face, the first is a true positive and the others are false positives.
    """
    order = np.argsort(-scores, kind="stable")
    face, photo = finds.face[order], finds.photo[order]
    first = np.zeros(len(order), bool)
    first[np.unique(np.stack([photo, face]), axis=1, return_index=True)[1]] = True
    hit = first & (face >= 0)
    return float((np.cumsum(hit) / np.arange(1, len(hit) + 1))[hit].sum() / faces)


def select(finds: Finds, which: Array) -> Finds:
    """Select proposals by a mask (n,), without their landmarks."""
    return finds._replace(**{name: getattr(finds, name)[which] for name in ("scores", "evidence", "face", "photo")})


def _coefficients(finds: Sequence[Finds]) -> Array:
    evidence, is_face = (np.concatenate([getattr(f, name) for f in finds]) for name in ("evidence", "is_face"))
    return logistic(evidence, is_face)


def fit_landmark_evidence(finds: Iterable[Finds]) -> list[float] | None:
    """Fit the coefficients under which a landmark's score is the probability that it is correct, see `NEAR`.

    A logistic regression on the visible landmarks of matched faces, one for all landmarks and sizes. ``None`` if all or
    none of them are correct.
    """
    parts = [(found.landmark_evidence.reshape(-1, LANDMARK_EVIDENCE), found.near.ravel()) for found in finds]
    evidence, near = map(np.concatenate, zip(*parts, strict=True))
    evidence, near = evidence[~np.isnan(near)], near[~np.isnan(near)]
    if not 0 < near.sum() < len(near):
        _log.warning("scores of landmarks are not calibrated: %d of %d are right", near.sum(), len(near))
        return None
    return list(logistic(evidence, near).round(4).tolist())
