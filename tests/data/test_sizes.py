"""Labels and detections for another image size are an error that says so."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lineament.data.readers.folder import read_faceless
from lineament.data.sample import Sample
from lineament.data.sizes import check_sizes
from lineament.errors import DataError
from lineament.evaluate.labelled import read_detections
from lineament.faces import Faces
from lineament.images import read_header


def photo(path: Path, orientation: int = 1) -> Path:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (60, 40)).save(path, exif=exif)
    return path


def test_labels_are_held_against_the_image(tmp_path: Path) -> None:
    path = photo(tmp_path / "a.jpg")
    turned = photo(tmp_path / "b.jpg", orientation=6)
    fine = [Sample.of(path, [], size=(60, 40)), Sample.of(turned, [], size=(40, 60)), Sample.of(path, [])]
    check_sizes([*fine, Sample.of(tmp_path / "gone.jpg", [], size=(1, 1))])
    with pytest.raises(DataError, match=r"a\.jpg: its labels are of an image of 30x20, but it is 60x40; "):
        check_sizes([*fine, Sample.of(path, [], size=(30, 20))])
    stored = Sample.of(turned, [], size=(60, 40))
    with pytest.raises(DataError, match=r"b\.jpg: .* 60x40, .* 40x60 when upright \(EXIF orientation 6\) \(1 more"):
        check_sizes([stored, *fine, stored])


def test_pictures_without_faces_have_their_upright_size(tmp_path: Path) -> None:
    photo(tmp_path / "a.jpg", orientation=6)
    (sample,) = read_faceless(tmp_path)
    assert (sample.width, sample.height) == (40, 60)
    check_sizes([sample])


def test_headers(tmp_path: Path) -> None:
    assert [read_header(photo(tmp_path / f"{i}.jpg", i)).size for i in range(1, 9)] == [(60, 40)] * 4 + [(40, 60)] * 4
    assert read_header(photo(tmp_path / "odd.jpg", 77)).size == (60, 40)


@pytest.mark.parametrize("labelled", [(60, 40), (0, 0)])
def test_detections_are_held_against_the_labels_or_the_image(tmp_path: Path, labelled: tuple[int, int]) -> None:
    sample = Sample.of(photo(tmp_path / "a.jpg"), [[1, 2, 3, 4]], size=labelled)
    for size in ((60, 40), (30, 20)):
        faces = Faces.of([[1, 2, 3, 4]], [0.5], np.ones((1, 5, 2)), image_size=size)
        (tmp_path / "found.jsonl").write_text(json.dumps({"path": "a.jpg"} | faces.to_dict()))
        if size == (60, 40):
            assert len(read_detections(tmp_path / "found.jsonl", [sample], tmp_path).faces[0]) == 1
        else:
            with pytest.raises(DataError, match=r"found\.jsonl:1: .* of 30x20, but .*a\.jpg .* 60x40"):
                read_detections(tmp_path / "found.jsonl", [sample], tmp_path)
