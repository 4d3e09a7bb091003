"""Face detection and facial landmarks by published methods.

>>> import lineament
>>> faces = lineament.load("mtcnn").detect("photo.jpg")
"""

from lineament.detector import Detector, load
from lineament.drawing import draw
from lineament.errors import LineamentError
from lineament.faces import Faces
from lineament.images import read_image
from lineament.similarity import align
from lineament.weights import Model, models

__all__ = ["Detector", "Faces", "LineamentError", "Model", "align", "draw", "load", "models", "read_image"]
__version__ = "0.2.0.dev0"
