"""A second opinion on the faces of any detector: MTCNN's O-Net looks at each. Ours, in no paper.

O-Net sees a face from its pixels alone, the detectors from their maps. What both take for a face is rarely wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

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


class Verified:
    """A detector whose scores count O-Net's opinion as well. Boxes and landmarks stay as they are.

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
        judged = [self._judged(faces, opinion) for faces, opinion in zip(found, opinions, strict=True)]
        return [faces[faces.scores >= threshold] for faces in judged]

    @staticmethod
    def _judged(faces: Faces, opinion: Array) -> Faces:
        """The faces with the scores of both, best first."""
        certain = np.minimum(faces.scores.astype(np.float64), SURE)
        scores = sigmoid(logit(certain) + WEIGHT * np.minimum(opinion, MOST) + BIAS).astype(np.float32)
        best = np.argsort(-scores, kind="stable")
        return replace(faces, scores=scores)[best]


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
