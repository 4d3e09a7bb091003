"""What is fitted to labelled photos after training: the boxes of landmarks, and the scores. No weight changes."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lineament import boxes as box_ops
from lineament import conventions
from lineament.calibration import logistic, sigmoid
from lineament.data.cache import Photos
from lineament.data.canvases import Canvas
from lineament.methods import fitting
from lineament.methods.foxnet.decode import Config, FoxNetDecoder, largeness
from lineament.methods.judging import judged, nearest, right
from lineament.runtime import Graph

Array = NDArray[Any]

CANVASES = 768
"""Training canvases to which boxes are fitted."""
LEAST_FITTED = 300
"""Smallest number of faces on them."""
SAME = 0.25
"""Smallest IoU of a face and the box of its landmarks by the built-in convention."""
SURE = 0.2
"""Lowest probability of the faces to which boxes are fitted."""
OTHERS = 1e-3
"""Weight of small faces in the convention of large ones, and of large faces in that of small ones."""
_log = logging.getLogger(__name__)


def fitted(graph: Graph, config: Config, *, photos: Photos, canvases: Iterable[Canvas], canvas: int) -> dict[str, Any]:
    """Fit the settings of a file that depend on labelled photos, for each schema.

    Args:
        graph: The file.
        config: Its settings.
        photos: Validation photos, for the scores.
        canvases: Training canvases, for the boxes.
        canvas: Their side in pixels.

    Returns:
        Values of ``learned``, ``evidence``, ``calibration`` and ``landmark_calibration`` by schema. What cannot be
        fitted is left out, and the log has the reason.
    """
    drawn = list(canvases)
    fits: dict[str, Any] = {}
    for name in config.offered:
        bare = replace(config, learned=None, evidence=None, calibration=None, landmark_calibration=None)
        bare = replace(bare, landmarks=name, schemas=(name,))
        learned = fit_boxes(FoxNetDecoder(graph, replace(bare, input_size=canvas, overview=False)), drawn)
        with_boxes = replace(bare, learned=None if learned is None else {name: learned})
        own = {"learned": learned, **fit_scores(FoxNetDecoder(graph, with_boxes), photos)}
        for setting, value in own.items():
            if value is not None:
                fits.setdefault(setting, {})[name] = value
    return fits


def fit_boxes(decoder: FoxNetDecoder, canvases: Iterable[Canvas]) -> list[dict[str, Any]] | None:
    """Fit the conventions of small and large faces to the landmarks that a decoder finds on canvases.

    ``None`` if it finds too few faces.
    """
    points, boxes = [np.zeros((0, len(decoder.schema), 2))], [np.zeros((0, 4))]
    for canvas in canvases:
        found = decoder.candidates([canvas.pixels])
        found = found[(found.scores >= SURE) & np.isfinite(found.landmarks).all(axis=(1, 2))]
        faces = canvas.boxes[~canvas.ignore]
        face = nearest(found.boxes, faces, SAME)
        points.append(found.landmarks[face >= 0])
        boxes.append(faces[face[face >= 0]])
    landmarks, truth = np.concatenate(points), np.concatenate(boxes)
    if len(truth) < LEAST_FITTED:
        _log.warning("boxes are not fitted: %d faces on the training's canvases are too few", len(truth))
        return None
    large = largeness(box_ops.longer_side(conventions.convention("wider").boxes(landmarks, decoder.schema)))
    return [
        conventions.fit(landmarks, truth, weights=share + OTHERS, schema=decoder.schema).to_dict(4)
        for share in (1 - large, large)
    ]


def fit_scores(decoder: FoxNetDecoder, photos: Photos) -> dict[str, Any]:
    """Fit ``evidence``, by logistic regression, and the two calibrations. What cannot be fitted is ``None``."""
    evidence, is_face, chances, correct = [np.zeros((0, 4))], [np.zeros(0, bool)], [np.zeros(0)], [np.zeros(0)]
    for i, sample in enumerate(photos.samples):
        found = decoder.candidates([photos[i]])
        found = found[found.scores >= fitting.DOUBTFUL].suppressed(decoder.config, decoder.config.nms, fitting.DOUBTFUL)
        counts, face = judged(found.boxes, sample)
        found = found[counts]
        evidence.append(found.evidence)
        is_face.append(face >= 0)
        if sample.schema == decoder.schema:
            sure = (face >= 0) & (found.scores >= fitting.SURE)
            chances.append(found.landmark_scores[sure].ravel())
            correct.append(right(found.landmarks[sure], sample, face[sure]).ravel())
    told, seen = np.concatenate(is_face), np.concatenate(evidence)
    fits: dict[str, Any] = {"landmark_calibration": fitting.fit_shares(chances, correct)}
    if told.all() or not told.any():
        _log.warning("scores are not fitted: %d of %d detections are faces", told.sum(), len(told))
        return fits
    weights = logistic(seen, told)
    fits["evidence"] = list(weights.round(4).tolist())
    fits["calibration"] = fitting.fit_shares([sigmoid(seen @ weights)], [told])
    return fits
