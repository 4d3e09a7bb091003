"""Fit the calibrations of a trained detector's scores to validation photos."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lineament.calibration import fit
from lineament.data.cache import Photos
from lineament.methods import Decoder
from lineament.methods.judging import judged, right
from lineament.methods.settings import DetectorSettings

Array = NDArray[Any]

DOUBTFUL = 0.05
"""Lowest probability of the detections that scores of faces are fitted to."""
SURE = 0.3
"""Lowest probability of the detections that scores of landmarks are fitted to."""
_log = logging.getLogger(__name__)


def fitted(make: Callable[[Any], Decoder], config: DetectorSettings, photos: Photos, **without: Any) -> dict[str, Any]:
    """Fit the settings ``calibration`` and ``landmark_calibration`` to labelled photos.

    Args:
        make: Makes a detector with given settings.
        config: The settings, which have these two.
        photos: Validation photos.
        without: Settings with which the method detects boxes without landmarks, if that is faster.

    Returns:
        The fitted settings by name. If all detections or all landmarks are right, or all wrong, there is nothing to
        fit: the setting is left out, and a warning is logged.
    """
    none: dict[str, Any] = {"calibration": None, "landmark_calibration": None}
    landmarks = {name: make(replace(config, landmarks=name, **none)) for name in config.offered}
    boxes = make(replace(config, **none, **without)) if without else landmarks[config.landmarks]
    scores, hits, masses, rights = [], [], [], []
    for i, sample in enumerate(photos.samples):
        (found,) = boxes([photos[i]], threshold=DOUBTFUL, min_face=1, max_face=None)
        counts, face = judged(found.boxes, sample)
        scores.append(found.scores[counts])
        hits.append(face >= 0)
        if sample.schema.name in landmarks:
            (found,) = landmarks[sample.schema.name]([photos[i]], threshold=SURE, min_face=1, max_face=None)
            counts, face = judged(found.boxes, sample)
            faces = counts[face >= 0]
            masses.append(found.landmark_scores[faces].ravel())
            rights.append(right(found.landmarks[faces], sample, face[face >= 0]).ravel())
    fits = {"calibration": fit_shares(scores, hits), "landmark_calibration": fit_shares(masses, rights)}
    return {name: value for name, value in fits.items() if value is not None}


def fit_shares(scores: Sequence[Array], hits: Sequence[Array]) -> dict[str, Any] | None:
    """The map from scores to the fraction of hits. Those of unknown outcome, NaN, do not count."""
    given, hit = np.concatenate([np.zeros(0), *scores]), np.concatenate([np.zeros(0), *hits]).astype(float)
    known = np.isfinite(hit)
    given, hit = given[known], hit[known] > 0
    if hit.all() or not hit.any():
        _log.warning("scores are not calibrated: %d of %d labelled ones are right", hit.sum(), len(hit))
        return None
    return fit(given, hit).to_dict()
