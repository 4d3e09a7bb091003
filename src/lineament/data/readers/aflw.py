"""AFLW: the original database with up to 21 landmarks, and the 19 landmarks of Zhu et al. with their splits.

Both count pixels from 0. Half a pixel is added to landmarks; boxes do not change.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lineament.data.readers.matlab import read_mat
from lineament.data.readers.parsing import expect, grouped, laid_out
from lineament.data.sample import HIDDEN, VISIBLE, Sample
from lineament.errors import DataError, OptionError
from lineament.schemas import NINETEEN, TWENTY_ONE_AFLW

Array = NDArray[Any]

FACES, TRAIN, TEST, FRONTAL = 24386, 20000, 4386, 1314
SPLITS = {"all": FACES, "train": TRAIN, "full": TEST, "frontal": FRONTAL}

_FACES = """
SELECT Faces.face_id, FaceImages.db_id, FaceImages.filepath, FaceImages.width, FaceImages.height,
       FaceRect.x, FaceRect.y, FaceRect.w, FaceRect.h, FacePose.roll, FacePose.pitch, FacePose.yaw
FROM Faces
JOIN FaceImages ON FaceImages.file_id = Faces.file_id
JOIN FaceRect ON FaceRect.face_id = Faces.face_id
LEFT JOIN FacePose ON FacePose.face_id = Faces.face_id
ORDER BY FaceImages.db_id, FaceImages.filepath, Faces.face_id
"""


def read_aflw(sqlite: str | Path, images: str | Path) -> list[Sample]:
    """Read ``aflw.sqlite``: faces with a rectangle, a pose (roll, pitch, yaw in radians) and up to 21 landmarks.

    Landmarks that the database does not have are not labelled (they are hidden there). Images are in
    ``images/<db_id>/<filepath>``. The size of the set differs between releases, so it is not checked.

    Raises:
        DataError: The file is not such a database.
    """
    if not Path(sqlite).is_file():
        raise DataError(f"{sqlite}: no such file")
    database = sqlite3.connect(f"file:{sqlite}?mode=ro", uri=True)
    try:
        faces = database.execute(_FACES).fetchall()
        coordinates = np.array(
            database.execute("SELECT face_id, feature_id, x, y FROM FeatureCoords").fetchall(), float
        )
    except sqlite3.DatabaseError as error:
        raise DataError(f"{sqlite}: expected AFLW's database: {error}") from error
    finally:
        database.close()
    coordinates = coordinates.reshape(-1, 4)
    coordinates = coordinates[(coordinates[:, 1] >= 1) & (coordinates[:, 1] <= len(TWENTY_ONE_AFLW))]
    ids = np.array([face[0] for face in faces])
    points = np.full((len(faces), len(TWENTY_ONE_AFLW), 2), np.nan)
    known = coordinates[np.isin(coordinates[:, 0], ids)]
    order = np.argsort(ids)
    rows = order[np.searchsorted(ids[order], known[:, 0])] if len(ids) else np.zeros(0, int)
    points[rows, known[:, 1].astype(int) - 1] = known[:, 2:] + 0.5
    numbers = np.array([face[5:] for face in faces], float).reshape(-1, 7)
    pictures = [(f"{face[1]}/{face[2]}", face[3], face[4]) for face in faces]
    boxes = np.concatenate([numbers[:, :2], numbers[:, :2] + numbers[:, 2:4]], axis=1)
    return [
        Sample.of(
            Path(images) / pictures[group[0]][0],
            boxes[group],
            points[group],
            size=(int(pictures[group[0]][1] or 0), int(pictures[group[0]][2] or 0)),
            source="aflw",
            box_source="other-convention",
            schema=TWENTY_ONE_AFLW,
            attributes={"pose": numbers[group, 4:]},
        )
        for group in grouped([picture[0] for picture in pictures])
    ]


def read_aflw19(mat: str | Path, images: str | Path, split: str = "all") -> list[Sample]:
    """Read ``AFLWinfo_release.mat``: 24,386 faces with 19 landmarks, boxes, visibility and splits.

    Boxes are ``left right top bottom`` there. Hidden landmarks (``mask_new`` 0) have visibility 1, or are not labelled
    if they are at 0, 0.

    Args:
        mat: The file.
        images: Folder of the images (``flickr``).
        split: "train" (20,000 faces), "full" (4,386), "frontal" (1,314: the faces of "full" without hidden landmarks),
            "all".

    Raises:
        DataError: The file has another form.
        MissingExtraError: SciPy is not installed.
        OptionError: The split does not exist.
    """
    if split not in SPLITS:
        raise OptionError(f"unknown split {split!r} of AFLW; there are: {', '.join(SPLITS)}")
    found = read_mat(mat)
    with laid_out(mat, "AFLWinfo_release, with nameList, data, bbox, mask_new and ra"):
        names, data, boxes = found["nameList"], np.asarray(found["data"], float), np.asarray(found["bbox"], float)
        seen, order = np.asarray(found["mask_new"]) > 0, np.ravel(found["ra"]).astype(int) - 1
        points, boxes = data.reshape(len(names), 2, 19).transpose(0, 2, 1), boxes.reshape(len(names), 4)
        seen = seen.reshape(len(names), 19)
    rows = {"train": order[:TRAIN], "all": np.arange(len(names))}.get(split, order[TRAIN:])
    if split == "frontal":
        rows = rows[seen[rows].all(axis=1)]
    expect(mat, f"faces of split {split!r}", SPLITS[split], len(rows))
    return [
        Sample.of(
            Path(images) / names[rows[group[0]]],
            boxes[rows[group]][:, [0, 2, 1, 3]],
            np.where((points[rows[group]] != 0).any(axis=2)[..., None], points[rows[group]] + 0.5, np.nan),
            visibility=np.where(seen[rows[group]], VISIBLE, HIDDEN),
            source="aflw",
            box_source="other-convention",
            schema=NINETEEN,
        )
        for group in grouped([names[row] for row in rows])
    ]
