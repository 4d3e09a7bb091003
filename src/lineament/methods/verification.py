"""A second opinion on the faces of any detector: MTCNN's O-Net looks at each. Ours, in no paper.

O-Net sees a face from its pixels alone, the detectors from their maps. What both take for a face is rarely wrong, and
the mean of both boxes is more accurate than either.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lineament.boxes import nms, sized
from lineament.calibration import logit, sigmoid
from lineament.errors import OptionError
from lineament.faces import Faces
from lineament.methods.mtcnn.decode import MTCNN
from lineament.methods.settings import DetectorSettings

if TYPE_CHECKING:
    from lineament.methods import Decoder

Array = NDArray[Any]

WEIGHT = 0.15
"""Weight of O-Net's logit. The detector's has 1. Validation photos chose it, for KPNet and MaskFace."""
BIAS = -0.3
"""Added to both, so that about as many faces as before have a score of 0.5 or more, in validation photos."""
MOST = 8.0
"""Largest logit of O-Net that counts, so that a lowest score of the detector follows from a threshold."""
SURE = 1 - 1e-4
"""Largest score of a detector that counts. Faces above it are ranked by O-Net alone."""
SHARE = 0.5
"""Share of O-Net's box in the box of a face. Validation photos chose it, by the mean overlap."""
OVERLAP = 0.6
"""Overlap above which boxes that came closer are one face. The one with the lower score is removed."""


class Verified:
    """A detector whose scores and boxes count O-Net's opinion as well. Landmarks stay as they are.

    Args:
        decoder: The detector.
        cascade: An MTCNN, for its O-Net.
    """

    def __init__(self, decoder: Decoder, cascade: MTCNN) -> None:
        self.schema = decoder.schema
        self._decoder, self._cascade = decoder, cascade

    def __call__(
        self, images: Sequence[Array], *, threshold: float, min_face: float, max_face: float | None
    ) -> list[Faces]:
        """Detect faces in images (h, w, 3) uint8 RGB, with scores of at least ``threshold``, best first."""
        lowest = float(sigmoid(logit(threshold) - BIAS - WEIGHT * MOST))
        found = self._decoder(images, threshold=lowest, min_face=min_face, max_face=max_face)
        opinions = self._cascade.opinions(images, [faces.boxes for faces in found])
        judged = [self._judged(faces, *opinion) for faces, opinion in zip(found, opinions, strict=True)]
        return [faces[(faces.scores >= threshold) & sized(faces.boxes, min_face, max_face)] for faces in judged]

    @staticmethod
    def _judged(faces: Faces, logits: Array, boxes: Array) -> Faces:
        """The faces with the scores and the boxes of both, best first."""
        certain = np.minimum(faces.scores.astype(np.float64), SURE)
        scores = sigmoid(logit(certain) + WEIGHT * np.minimum(logits, MOST) + BIAS).astype(np.float32)
        moved = (faces.boxes + SHARE * (boxes - faces.boxes)).astype(np.float32)
        return replace(faces, scores=scores, boxes=moved)[nms(moved, scores, OVERLAP)]


def check_verifiable(method: str, settings: DetectorSettings) -> None:
    """Check that the faces of a detector can be verified.

    Raises:
        OptionError: It is MTCNN, or its boxes follow another convention than O-Net learned.
    """
    if method == "mtcnn":
        raise OptionError("verify asks mtcnn's O-Net about the faces of other detectors; mtcnn's are its own")
    drawn = getattr(settings, "convention", "wider")
    if drawn != "wider":
        raise OptionError(f"verify takes boxes in the convention 'wider', which O-Net learned, found {drawn!r:.80}")
