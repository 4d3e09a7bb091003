"""What labelled photos tell once a network is trained: how boxes are made of what it says, and what scores mean.

None of it changes a weight. Boxes are refined (`fit_refinement`, to canvases of the training); the scores of faces are
made (`fit_evidence`) and calibrated, and so are landmarks' (`fit_landmark_evidence`), to validation photos.
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
"""Of the training, to which boxes are fitted."""
LEAST_FITTED = 1000
"""Proposals there that are faces, at least."""
DOUBTFUL = -5.0
"""Logit of a face's probability above which proposals are fitted to: 0.0067. Below it they are never returned."""
SIZES = (256, 384, 640)
"""Input sizes, in pixels, whose mean average precision decides to which sizes scores are fitted."""
FOLDS = 5
"""Parts of the validation photos, each judged by what was fitted to the others."""
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
    """Settings of a file that labelled photos tell.

    Args:
        graph: the file. config: its settings.
        photos: validation photos.
        canvases: of the training, `CANVASES` will do; ``None`` leaves the refinement as it is.
        canvas: side in pixels of the training's canvases, a size at which the network knows faces well.
        given: names of settings that are to stay as they are.

    Returns:
        Values of ``refinement``, ``evidence``, ``calibration`` and ``landmark_evidence``; what stays as it is, or could
        not be fitted, is left out, and of the latter the log says why.
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
        _log.warning("scores stay as they are: of %d proposals %d are faces", len(told), told.sum())
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
    """Coefficients of ``decode.refined`` by which a network's boxes are nearest to those of faces on canvases.

    A mirrored face has the mirrored box. ``None`` of too few faces to tell.
    """
    parts = []
    for canvas in canvases:
        found = decoder.propose([canvas.pixels], surpassing=DOUBTFUL)
        found = found[np.asarray(np.isfinite(found.expected).all(axis=1))]
        faces = canvas.boxes[~canvas.ignore]
        face = nearest(found.squares, box_ops.square(faces), 0.3)
        found, truth = found[face >= 0], faces[face[face >= 0]]
        parts.append((found.evidence, terms(found.expected, found.squares), box_ops.encode_rcnn(truth, found.squares)))
    count = sum(len(truth) for *_, truth in parts)
    if count < LEAST_FITTED:
        _log.warning("boxes are not refined: %d proposals on the training's canvases are too few to fit to", count)
        return None
    speaks, told, wanted = map(np.concatenate, zip(*parts, strict=True))
    coefficients = np.zeros(REFINEMENT)
    for offset, counting in enumerate(([0], [1, 2, 3, 4], [1, 2, 3, 4], [1, 2, 3, 4])):
        features = (speaks[:, :, None] * told[:, None, counting]).reshape(len(told), -1)
        coefficients[:, counting, offset] = robust(features, wanted[:, offset]).reshape(-1, len(counting))
    return list(coefficients.round(5).tolist())


class Finds(NamedTuple):
    """Proposals in labelled photos that stand after suppression; those on ignored regions are left out.

    Attributes:
        scores: (n,). evidence: (n, 6), see ``decode.evidence``.
        face: (n,) which of its photo's faces it is, -1 for none. photo: (n,) index of the photo.
        landmark_evidence: (m, k, 3), see ``decode.landmark_evidence``, of the m proposals that are faces.
        near: (m, k) 1 for a landmark that is right, 0 for one that is not, NaN where no truth is known.
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
    """What a decoder finds in labelled photos above `DOUBTFUL`."""
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
    """Coefficients (6,) of ``decode.evidence``: how scores are made.

    Fitted at a large input alone, scores may rank small faces too low at any, and at a small one alone too high. So
    they are fitted at the size of a canvas, at the size that is shown, or at both, whichever has the highest average
    precision by cross-validation over photos, in the mean of `SIZES`.

    Args:
        finds: by input size, `SIZES` and the two others among them. faces: how many there are in all photos.
        shown: size at which pictures are shown unless somebody asks for another. canvas: that of the canvases.
    """
    choices = list(dict.fromkeys([(canvas, shown), (shown,), (canvas,)]))
    precision = {sizes: held_out_precision(finds, sizes, faces) for sizes in choices}
    best = max(choices, key=lambda sizes: precision[sizes])  # of equals the first
    _log.info("scores are fitted at %s: average precision %s", best, {s: round(p, 4) for s, p in precision.items()})
    return _coefficients([finds[size] for size in best])


def held_out_precision(finds: Mapping[int, Finds], sizes: Sequence[int], faces: int) -> float:
    """Mean average precision at `SIZES` of scores fitted at some, each photo's to the other folds' photos.

    0 where the photos are too few to be folded.
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
    """Mean over all ``faces`` of the precision down to their scores (n,), 0 for those that are not found.

    A face that is found twice counts once, and the second find as a false alarm.
    """
    order = np.argsort(-scores, kind="stable")
    face, photo = finds.face[order], finds.photo[order]
    first = np.zeros(len(order), bool)
    first[np.unique(np.stack([photo, face]), axis=1, return_index=True)[1]] = True
    hit = first & (face >= 0)
    return float((np.cumsum(hit) / np.arange(1, len(hit) + 1))[hit].sum() / faces)


def select(finds: Finds, which: Array) -> Finds:
    """The finds of a mask (n,), without their landmarks."""
    return finds._replace(**{name: getattr(finds, name)[which] for name in ("scores", "evidence", "face", "photo")})


def _coefficients(finds: Sequence[Finds]) -> Array:
    evidence, is_face = (np.concatenate([getattr(f, name) for f in finds]) for name in ("evidence", "is_face"))
    return logistic(evidence, is_face)


def fit_landmark_evidence(finds: Iterable[Finds]) -> list[float] | None:
    """Coefficients under which a landmark's score is the probability that it is right, see `NEAR`.

    By a logistic regression on the visible landmarks of the faces that were found, one for all landmarks and sizes.
    ``None`` where all or none of them are right.
    """
    parts = [(found.landmark_evidence.reshape(-1, LANDMARK_EVIDENCE), found.near.ravel()) for found in finds]
    evidence, near = map(np.concatenate, zip(*parts, strict=True))
    evidence, near = evidence[~np.isnan(near)], near[~np.isnan(near)]
    if not 0 < near.sum() < len(near):
        _log.warning("landmarks' scores stay as they are: of %d landmarks %d are right", len(near), near.sum())
        return None
    return list(logistic(evidence, near).round(4).tolist())
