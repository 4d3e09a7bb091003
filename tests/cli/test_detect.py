"""``lineament detect``: its output, the order of the output, and its errors."""

from __future__ import annotations

import errno
import importlib
import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from PIL import Image
from typer.testing import Result

import lineament
from lineament import detector
from lineament.cli import work
from lineament.cli.outputs import FaceCrops, check_alignable, plain_crops
from lineament.drawing import BOX
from lineament.errors import OptionError
from lineament.schemas import own

detect = importlib.import_module("lineament.cli.detect")  # the attribute of the package is the command

Run = Callable[..., Result]
SCHEMA = json.loads((files("lineament") / "result.schema.json").read_text())
pytestmark = pytest.mark.usefixtures("middle")


def photo(path: Path, size: tuple[int, int] = (80, 60), red: int = 100) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (red, 0, 0)).save(path)
    return path


def read_lines(text: str) -> list[dict[str, Any]]:
    records = [json.loads(line) for line in text.splitlines()]
    for record in records:
        jsonschema.validate(record, SCHEMA)
    return records


def test_the_schema_is_one_and_refuses_other_things() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    for record in ({}, {"path": "a.jpg"}, {"path": "a.jpg", "error": "x", "faces": []}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(record, SCHEMA)


def test_json_lines_keep_the_order_and_name_what_cannot_be_read(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(detector, "PIXELS_AT_ONCE", 80 * 60 * 4)
    count = 19
    for i in range(count):
        photo(tmp_path / f"{i:02}.png", (80 + i, 60), red=10 * i)
    (tmp_path / "05.png").write_bytes(b"no picture")
    result = run("detect", tmp_path, "-m", "middle", "--json", tmp_path / "faces.jsonl")
    assert result.exit_code == 1, result.output
    records = read_lines((tmp_path / "faces.jsonl").read_text())
    assert [Path(r["path"]).name for r in records] == [f"{i:02}.png" for i in range(count)]
    assert "begins with b'no picture'" in records[5]["error"]
    assert "begins with b'no picture'" in result.stderr
    assert [r["width"] for r in records if "width" in r] == [80 + i for i in range(count) if i != 5]
    assert records[8] == {
        "path": str(tmp_path / "08.png"),
        "width": 88,
        "height": 60,
        "method": "middle",
        "detector": {
            "version": lineament.__version__,
            "weights": {"middle": "0" * 64},
            "threshold": 0.0,
            "min_face": 10,
            "input_size": None,
            "device": "cpu",
        },
        "schema": "5",
        "faces": [
            {
                "box": [22, 15, 66, 45],
                "score": 0.3137,
                "landmarks": [[35.2, 24], [52.8, 24], [44, 30], [39.6, 36], [48.4, 36]],
                "landmark_scores": [0.3137] * 5,
            }
        ],
    }
    assert "18 faces in 18 images; 1 could not be read" in result.stderr
    assert result.stdout == ""


def test_a_landmark_stage_gives_the_landmarks(tmp_path: Path, run: Run) -> None:
    photo(tmp_path / "a.png")
    (record,) = read_lines(run("detect", tmp_path, "-m", "middle", "--landmarks", "placed", "--json", "-").stdout)
    (face,) = record["faces"]
    assert (record["schema"], face["box"]) == ("68", [20, 15, 60, 45])
    assert face["landmarks"] == [[40, 30]] * 68
    assert face["landmark_scores"] == [0.9] * 68


def test_readers_of_lines_without_landmark_scores_go_on() -> None:
    face = {"box": [1, 2, 3, 4], "score": 0.5, "landmarks": []}
    record = {"path": "a.jpg", "width": 9, "height": 9, "method": "m", "schema": "5", "faces": [face]}
    jsonschema.validate(record, SCHEMA)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(record | {"faces": [face | {"landmark_scores": [1.1]}]}, SCHEMA)


def test_json_on_stdout_is_nothing_but_json(tmp_path: Path, run: Run) -> None:
    photo(tmp_path / "a.png")
    result = run("detect", tmp_path, "-m", "middle", "--json", "-")
    assert result.exit_code == 0
    assert len(read_lines(result.stdout)) == 1


def test_drawn_pictures_keep_the_folders_that_tell_them_apart(tmp_path: Path, run: Run) -> None:
    photo(tmp_path / "in/2023/a.png")
    photo(tmp_path / "in/2024/a.png", (100, 100))
    result = run("detect", tmp_path / "in", "-m", "middle", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    written = {p.relative_to(tmp_path / "out").as_posix(): p for p in (tmp_path / "out").rglob("*") if p.is_file()}
    assert set(written) == {"2023/a.png", "2024/a.png"}
    drawn = np.asarray(Image.open(written["2024/a.png"]))
    assert drawn.shape == (100, 100, 3)
    assert (drawn[25, 40:70] == BOX).all()


def test_one_folder_is_written_flat_and_unknown_suffixes_become_png(tmp_path: Path, run: Run) -> None:
    photo(tmp_path / "in/a.png").rename(tmp_path / "in/a.dat")
    photo(tmp_path / "in/b.jpg")
    result = run("detect", tmp_path / "in/a.dat", tmp_path / "in/b.jpg", "-m", "middle", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a.dat.png", "b.jpg"]
    assert Image.open(tmp_path / "out/b.jpg").format == "JPEG"


def test_paths_that_go_up_do_not_lead_out_of_the_folder(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo(tmp_path / "one/a.png")
    photo(tmp_path / "two/a.png")
    monkeypatch.chdir(tmp_path / "two")
    result = run("detect", "../one/a.png", "a.png", "-m", "middle", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert sorted(p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*.png")) == [
        "one/a.png",
        "two/a.png",
    ]


def test_no_input_is_overwritten(tmp_path: Path, run: Run) -> None:
    photo(tmp_path / "one/a.png")
    before = photo(tmp_path / "a.png").read_bytes()
    result = run("detect", tmp_path / "one/a.png", tmp_path / "a.png", "-m", "middle", "--out", tmp_path)
    assert result.exit_code == 2
    assert "would overwrite" in result.stderr
    assert (tmp_path / "a.png").read_bytes() == before


def test_a_folder_for_drawn_pictures_is_not_searched(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    photo(tmp_path / "a.png")
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        result = run("detect", ".", "-m", "middle", "--out", "drawn")
        assert result.exit_code == 0, result.output
        assert "1 face in 1 image" in result.stderr
        assert sorted(p.as_posix() for p in Path().rglob("*.png")) == ["a.png", "drawn/a.png"]


def test_nothing_but_the_librarys_own_words_is_said_of_pictures(tmp_path: Path, run: Run) -> None:
    Image.new("RGB", (80, 60)).save(tmp_path / "a.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f")
    (tmp_path / "b.jpg").write_bytes(b"no picture")
    result = run("detect", tmp_path / "a.jpg", "-m", "middle", "--json", "-")
    assert result.exit_code == 0
    assert result.stderr == "1 face in 1 image\n"
    result = run("detect", tmp_path / "b.jpg", "-m", "middle")
    assert result.exit_code == 1
    assert result.stdout == ""  # no table without a row


def test_max_pixels_goes_beyond_pillows_own_limit(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert run("detect", photo(tmp_path / "a.png"), "-m", "middle", "--max-pixels", 4800).exit_code == 0


def test_without_a_file_there_is_a_table(tmp_path: Path, run: Run) -> None:
    photo(tmp_path / "a.png", red=255)
    photo(tmp_path / "[b].png", (12, 12))
    result = run("detect", tmp_path, "-m", "middle")
    assert result.exit_code == 0
    rows = [line.split() for line in result.stdout.splitlines()]
    assert [row[1:] for row in rows[1:]] == [["12x12", "0"], ["80x60", "1", "1.00"]]
    assert rows[1][0].endswith("[b].png")
    assert "1 face in 2 images" in result.stderr


def test_options_reach_the_detector(tmp_path: Path, run: Run) -> None:
    photo(tmp_path / "dark.png", red=50)
    photo(tmp_path / "red.png", red=200)
    for options, faces in (((), [1, 1]), (("--threshold", 0.5), [0, 1]), (("--min-face", 31), [0, 0])):
        result = run("detect", tmp_path, "-m", "middle", "--json", "-", *options)
        assert [len(r["faces"]) for r in read_lines(result.stdout)] == faces
    result = run("detect", tmp_path, "-m", "middle", "--json", "-", "--max-pixels", 100)
    assert result.exit_code == 1
    assert all("limit max_pixels=100" in r["error"] for r in read_lines(result.stdout))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--threshold", 1.5), r"threshold must lie in [0, 1], found 1.5"),
        (("--min-face", 0), "min_face"),
        (("--min-face", 40, "--max-face", 20), "max_face"),
        (("-m", "mtccn"), "unknown method or weight file 'mtccn'; shipped are: middle"),
        (("--jobs", 0), "--jobs"),
        (("gone.jpg",), "gone.jpg: no such file or folder"),
        (("--json", "."), "is a folder"),
        (("--json", "a.png/faces.jsonl"), "cannot write into a.png"),
        (("--out", "a.png"), "cannot write into a.png"),
        (("--out", "."), "would overwrite"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, tuple) else "",
)
def test_wrong_requests_end_in_one_line_before_anything_is_done(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch, arguments: tuple[object, ...], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    before = photo(Path("a.png")).read_bytes()
    method = () if "-m" in arguments else ("-m", "middle")
    result = run("detect", "a.png", *method, *arguments)
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert "Traceback" not in result.output
    assert result.stdout == ""
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]
    assert (tmp_path / "a.png").read_bytes() == before


def test_two_pictures_for_one_file_are_refused_before_the_start(tmp_path: Path, run: Run) -> None:
    photo(tmp_path / "in/a.png")
    photo(tmp_path / "in/b.png").rename(tmp_path / "in/a")
    result = run("detect", tmp_path / "in/a", tmp_path / "in/a.png", "-m", "middle", "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert "in/a and " in result.stderr
    assert "would both be written to" in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_picture_by_two_spellings_is_one(tmp_path: Path, run: Run) -> None:
    photo(tmp_path / "a.png")
    (tmp_path / "link.png").symlink_to(tmp_path / "a.png")
    spellings = (tmp_path / "a.png", tmp_path / ".." / tmp_path.name / "a.png", tmp_path / "link.png")
    result = run("detect", *spellings, "-m", "middle", "--out", tmp_path / "out")
    assert (result.exit_code, [p.name for p in (tmp_path / "out").iterdir()]) == (0, ["a.png"])


def test_long_names(tmp_path: Path, run: Run) -> None:
    photo(tmp_path / f"{'é' * 125}.png")
    assert run("detect", tmp_path, "-m", "middle", "--out", tmp_path / "out").exit_code == 0
    assert len(os.fsencode(next((tmp_path / "out").iterdir()).name)) == 254
    photo(tmp_path / "b.png").rename(tmp_path / ("b" * 252))
    result = run("detect", tmp_path / ("b" * 252), "-m", "middle", "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert "a name of over 255 bytes" in result.stderr


def test_a_picture_that_its_format_cannot_hold_is_named_and_the_rest_goes_on(tmp_path: Path, run: Run) -> None:
    photo(tmp_path / "in/a.png", (17_000, 2)).rename(tmp_path / "in/a.webp")
    photo(tmp_path / "in/b.webp")
    out = tmp_path / "out"
    result = run("detect", tmp_path / "in", "-m", "middle", "--out", out, "--json", tmp_path / "faces.jsonl")
    assert result.exit_code == 2
    assert "out/a.webp: an image of 17000x2 cannot be written" in result.stderr
    assert "2 images; 1 could not be written" in result.stderr
    assert [p.name for p in out.iterdir()] == ["b.webp"]
    assert len(read_lines((tmp_path / "faces.jsonl").read_text())) == 2


def test_a_picture_on_stdin(tmp_path: Path, run: Run) -> None:
    content = photo(tmp_path / "a.png").read_bytes()
    result = run("detect", "-", "-m", "middle", "--json", "-", "--out", tmp_path / "out", input=content)
    assert result.exit_code == 0, result.output
    assert [record["path"] for record in read_lines(result.stdout)] == ["-"]
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["stdin.png"]


def test_json_goes_into_a_pipe(tmp_path: Path, run: Run) -> None:
    photo(tmp_path / "a.png")
    os.mkfifo(tmp_path / "pipe")
    with ThreadPoolExecutor() as pool:
        read = pool.submit((tmp_path / "pipe").read_text)
        assert run("detect", tmp_path / "a.png", "-m", "middle", "--json", tmp_path / "pipe").exit_code == 0
        assert len(read_lines(read.result())) == 1


def test_a_reader_that_goes_is_no_error(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr(detect.Summary, "add", gone)
    result = run("detect", photo(tmp_path / "a.png"), "-m", "middle", "--json", "-")
    assert (result.exit_code, result.stderr) == (141, "")


@pytest.mark.parametrize("stop", [KeyboardInterrupt, MemoryError])
def test_a_stopped_run_goes_on_where_it_was(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch, stop: type[BaseException]
) -> None:
    photos = [photo(tmp_path / f"in/{i}.png", red=20 * i) for i in range(6)]
    target, seen = tmp_path / "faces.jsonl", []
    command = ("detect", tmp_path / "in", "-m", "middle", "--json", target)
    read = work.read_image

    def stopping(path: Path, **options: Any) -> np.ndarray:
        seen.append(path)
        if path == photos[4] and len(seen) < 6:
            raise stop
        return read(path, **options)

    monkeypatch.setattr(work, "read_image", stopping)
    monkeypatch.setattr(detector, "PIXELS_AT_ONCE", 1)
    stopped = run(*command)
    assert stopped.exit_code != 0
    assert not target.exists()
    kept = int(stopped.stderr.split("stopped; ")[1].split(" of 6 images are kept")[0])
    assert kept > 0
    (part,) = tmp_path.glob(".*.part.jsonl")
    part.write_bytes(part.read_bytes() + b'{"path": "half a li')
    seen[:] = [Path()] * 6
    result = run(*command)
    assert result.exit_code == 0, result.output
    assert f"{kept} images were finished before" in result.stderr
    assert seen[6:] == photos[kept:]
    assert [record["path"] for record in read_lines(target.read_text())] == list(map(str, photos))
    assert not part.exists()


def test_a_stopped_run_does_not_go_on_with_another_limit(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos, target = [photo(tmp_path / f"in/{i}.png") for i in range(2)], tmp_path / "faces.jsonl"
    command, add = ("detect", tmp_path / "in", "-m", "middle", "--json", target), detect.Summary.add

    def stopping(summary: detect.Summary, record: dict[str, Any]) -> None:
        add(summary, record)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(detect.Summary, "add", stopping)
        assert run(*command, "--max-pixels", 100).exit_code != 0
    (part,) = tmp_path.glob(".*.part.jsonl")
    assert "max_pixels=100" in part.read_text()
    result = run(*command)
    assert "were finished before" not in result.stderr
    assert not any("error" in record for record in read_lines(target.read_text()))
    assert len(read_lines(target.read_text())) == len(photos)


def test_a_stopped_run_does_not_go_on_with_replaced_pictures(tmp_path: Path, run: Run) -> None:
    a, b = photo(tmp_path / "a.png"), photo(tmp_path / "b.png")
    lines = tmp_path / "part.jsonl"
    lines.write_text("".join(json.dumps({"path": str(path)}) + "\n" for path in (a, b)))
    assert [record["path"] for record in detect._finished(lines, [a, b], [])] == [str(a), str(b)]
    os.utime(b, (lines.stat().st_mtime + 9,) * 2)
    assert [record["path"] for record in detect._finished(lines, [a, b], [])] == [str(a)]
    assert len(lines.read_text().splitlines()) == 1


def test_a_json_file_is_written_whole_or_not_at_all(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    photo(tmp_path / "a.png")
    target = tmp_path / "faces.jsonl"
    target.write_text("as it was")

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("lineament.draw", fail)
    result = run("detect", tmp_path, "-m", "middle", "--json", target, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert "No space left on device" in result.stderr
    assert target.read_text() == "as it was"
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and p.name not in ("a.png", "faces.jsonl")]


# --- crops ---


def test_crops_are_aligned_and_named_after_image_and_face(tmp_path: Path, run: Run) -> None:
    photo(tmp_path / "in/a.jpg", (400, 300))
    photo(tmp_path / "in/deep/a.png")
    photo(tmp_path / "in/deep/faceless.png", (10, 10))
    result = run("detect", tmp_path / "in", "-m", "middle", "--crops", tmp_path / "crops", "--json", "-")
    assert result.exit_code == 0, result.output
    crops = sorted(path.relative_to(tmp_path / "crops").as_posix() for path in (tmp_path / "crops").rglob("*.*"))
    assert crops == ["a.jpg-0.png", "deep/a.png-0.png"]
    image = lineament.read_image(tmp_path / "in/a.jpg")
    faces = lineament.Faces.from_dict(read_lines(result.stdout)[0])
    aligned = lineament.align(image, faces).crops[0]
    assert np.abs(lineament.read_image(tmp_path / "crops/a.jpg-0.png").astype(int) - aligned).max() <= 1
    assert run("detect", tmp_path, "-m", "middle", "--crops", tmp_path / "crops", "--crop-size", 40).exit_code == 0
    assert Image.open(tmp_path / "crops/a.jpg-0.png").size == (40, 40)
    assert not (tmp_path / "crops/crops").exists()


def test_plain_crops_are_the_boxes(tmp_path: Path, run: Run) -> None:
    photo(tmp_path / "a.png")
    result = run("detect", tmp_path / "a.png", "-m", "middle", "--crops", tmp_path / "crops", "--no-align")
    assert result.exit_code == 0, result.output
    assert Image.open(tmp_path / "crops/a.png-0.png").size == (40, 30)


@pytest.mark.parametrize(
    ("box", "size"),
    [
        ([2.5, 3.0, 6.5, 8.0], (5, 5)),  # whole pixels around it
        ([-5.0, -9.0, 4.0, 5.0], (4, 5)),
        ([8.0, 8.0, 99.0, 99.0], (2, 2)),
        ([50.0, -20.0, 60.0, -10.0], (1, 1)),  # outside: the nearest pixel
        ([4.0, 4.0, 4.0, 4.0], (1, 1)),
    ],
)
def test_plain_crops_lie_in_the_image(box: list[float], size: tuple[int, int]) -> None:
    faces = lineament.Faces.of([box], [1.0], np.zeros((1, 5, 2)), image_size=(10, 10))
    (crop,) = plain_crops(np.zeros((10, 10, 3), np.uint8), faces)
    assert crop.shape == (size[1], size[0], 3)


def test_crops_that_would_replace_something_are_refused(tmp_path: Path, run: Run) -> None:
    photo(tmp_path / "a.png")
    photo(tmp_path / "a.png-0.png")
    result = run("detect", tmp_path, "-m", "middle", "--crops", tmp_path)
    assert result.exit_code == 2
    assert "would overwrite" in result.stderr
    both = run("detect", tmp_path, "-m", "middle", "--crops", tmp_path / "x", "--out", tmp_path / "x")
    assert both.exit_code == 2
    assert "choose two folders" in both.stderr
    size = run("detect", tmp_path, "-m", "middle", "--crops", tmp_path / "x", "--no-align", "--crop-size", "9")
    assert size.exit_code == 2
    assert "--no-align" in size.stderr
    with pytest.raises(OptionError, match=r"'mine' cannot be aligned.*--no-align"):
        check_alignable(own("mine", ["tip"]))


def test_a_stopped_run_goes_on_only_where_the_crops_are(tmp_path: Path) -> None:
    image = photo(tmp_path / "a.png")
    crops = FaceCrops(tmp_path / "crops", 8)
    crops.plan([image])
    faces = lineament.Faces.of([[10, 10, 50, 50]], [1.0], np.eye(5, 2)[None] * 9, image_size=(80, 60))
    assert crops.has(image, 0)
    assert not crops.has(image, 1)
    assert crops.write(image, lineament.read_image(image), faces) == ""
    assert crops.has(image, 1)
    assert not crops.has(image, 2)
    lines = tmp_path / "part.jsonl"
    line = json.dumps({"path": str(image)} | faces.to_dict()) + "\n"
    lines.write_text(line)
    assert len(list(detect._finished(lines, [image], [crops]))) == 1
    (tmp_path / "crops/a.png-0.png").unlink()
    lines.write_text(line)
    assert list(detect._finished(lines, [image], [crops])) == []
