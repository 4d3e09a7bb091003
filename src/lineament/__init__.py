"""Faces and facial landmarks: published methods in one house.

>>> import lineament
>>> faces = lineament.load("mtcnn").detect("photo.jpg")
"""

__version__ = "0.1.0"
