"""The server's answers: they equal the library's, within limits, and its errors teach."""

from __future__ import annotations

import asyncio
import io
import json
import re
import signal
import socket
import struct
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from importlib.resources import files
from pathlib import Path
from typing import Any

import httpx2
import jsonschema
import numpy as np
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from PIL import Image
from typer.testing import CliRunner

import lineament
from lineament.cli import app as commands
from lineament.covers import Cover, redact
from lineament.evaluate.speed import peak_memory
from lineament.records import read_records, to_record
from lineament.redaction import PHOTO
from lineament.serve import Limits, create_app
from lineament.serve.detectors import LOADED, Detectors
from serve.server import running

PHOTOS = Path(__file__).parents[2] / "examples" / "photos"
CROWD, PORTRAIT = PHOTOS / "crowd.jpg", PHOTOS / "astronaut.jpg"
SCHEMA = json.loads((files("lineament") / "result.schema.json").read_text())
LITE = "kpnet-lite-int8"


@pytest.fixture(scope="module")
def detectors() -> Detectors:
    return Detectors(LITE, threads=1)


@pytest.fixture(scope="module")
def client(detectors: Detectors) -> Iterator[TestClient]:
    with TestClient(create_app(detectors, Limits(bytes=2**22, photos=4, pixels=4_000_000))) as client:
        yield client


def upload(*contents: bytes | Path, field: str = "photos") -> list[tuple[str, tuple[str, bytes]]]:
    named = ((c.name, c.read_bytes()) if isinstance(c, Path) else ("own.png", c) for c in contents)
    return [(field, photo) for photo in named]


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, *extra: bytes, data: bytes = b"") -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(extra) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def zeros(megabytes: int) -> bytes:
    packer = zlib.compressobj(9)
    return b"".join([packer.compress(bytes(2**20)) for _ in range(megabytes)]) + packer.flush()


ZEROS = zeros(256)
BOMBS = {
    "pixels": png(60_000, 60_000, data=bytes(1000)),
    "data": chunk(b"IDAT", ZEROS).join((png(8, 8)[:33], chunk(b"IEND", b""))),
    "text": png(8, 8, chunk(b"zTXt", b"a\0\0" + ZEROS), data=bytes(8 * 25)),
    "profile": png(8, 8, chunk(b"iCCP", b"a\0\0" + ZEROS), data=bytes(8 * 25)),
}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"threshold": 0.05, "min_face": 30},
        {"method": "kpnet-lite", "input_size": 256},
        {"method": "maskface", "landmarks": "68", "input_size": 320},
        {"method": "mtcnn", "landmarks": "isnet-5", "max_face": 80},
    ],
)
def test_answers_are_the_librarys(client: TestClient, options: dict[str, Any]) -> None:
    answer = client.post("/v1/detect", params=options, files=upload(CROWD, PORTRAIT))
    assert answer.status_code == 200
    found = {name: options.get(name) for name in ("threshold", "min_face", "max_face")}
    settings = {"input_size": options["input_size"]} if "input_size" in options else {}
    detector = lineament.load(
        options.get("method", LITE), landmarks=options.get("landmarks"), settings=settings, threads=1
    )
    told = detector.describe(threshold=found["threshold"], min_face=found["min_face"])
    expected = [
        to_record(photo.name, faces, method=detector.method, detector=told)
        for photo, faces in zip((CROWD, PORTRAIT), detector.detect([CROWD, PORTRAIT], **found), strict=True)
    ]
    assert answer.json() == {"results": expected}
    assert len(expected[0]["faces"]) > 1


def test_a_photo_that_cannot_be_read_is_named_and_the_rest_is_answered(client: TestClient) -> None:
    answer = client.post("/v1/detect", files=upload(PORTRAIT, b"Dear server", PORTRAIT))
    first, second, third = answer.json()["results"]
    assert answer.status_code == 200
    assert first == third
    assert first["faces"]
    assert second["path"] == "own.png"
    assert re.match(r"own\.png: not an image .* b'Dear server'", second["error"])
    for record in (first, second):
        jsonschema.validate(record, SCHEMA)


def test_the_answer_as_lines_is_what_the_command_line_writes(client: TestClient, tmp_path: Path) -> None:
    answer = client.post("/v1/detect", files=upload(CROWD, b"no"), headers={"Accept": "application/x-ndjson"})
    (tmp_path / "faces.jsonl").write_text(answer.text)
    read, unread = read_records(tmp_path / "faces.jsonl")
    faces = lineament.load(LITE, threads=1).detect(CROWD)
    np.testing.assert_allclose(read.faces.boxes, faces.boxes, atol=0.006)
    assert unread.error


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_bomb_in_a_png_file_takes_no_memory(client: TestClient, bomb: str) -> None:
    client.post("/v1/detect", files=upload(png(8, 8, data=bytes(8 * 25))))
    peak = Path("/proc/self/clear_refs")
    if peak.exists():
        peak.write_text("5")  # reset the peak for this test
    before = peak_memory() or 0
    answer = client.post("/v1/detect", files=upload(BOMBS[bomb]))
    assert (peak_memory() or 0) < before + 100
    (record,) = answer.json()["results"]
    if bomb == "pixels":
        assert answer.status_code == 422
        assert re.match(r"own.png: .*3600000000 pixels", record["error"])
    else:
        assert (record["width"], record["height"]) == (8, 8)


@pytest.mark.parametrize(
    ("status", "words", "given"),
    [
        (422, "no photo; send files as", {"files": [("photos", b"")], "data": {}}),
        (422, "field 'image' is not known", {"files": upload(PORTRAIT, field="image")}),
        (422, "photos is text, not a file", {"data": {"photos": "data:image/png"}, "files": []}),
        (415, "send files as multipart", {"content": b"\xff\xd8", "headers": {"content-type": "image/jpeg"}}),
        (415, "send files as multipart", {"json": {"photos": []}}),
        (400, "Missing boundary", {"content": b"a", "headers": {"content-type": "multipart/form-data"}}),
        (413, "more than 4 MB", {"files": upload(bytes(2**22 + 1))}),
        (413, "more than 4 photos", {"files": upload(*[b"a"] * 5)}),
        (422, "threshold: Input should be less", {"files": upload(PORTRAIT), "params": {"threshold": 2}}),
        (422, "input_size: Input should be less", {"files": upload(PORTRAIT), "params": {"input_size": 100_000}}),
        (422, "max_face", {"files": upload(PORTRAIT), "params": {"max_face": 5, "min_face": 9}}),
        (422, "treshold: Extra inputs", {"files": upload(PORTRAIT), "params": {"treshold": 1}}),
        (422, "unknown method '/etc/passwd'", {"files": upload(PORTRAIT), "params": {"method": "/etc/passwd"}}),
        (422, "unknown landmarks", {"files": upload(PORTRAIT), "params": {"landmarks": "../a.onnx"}}),
        (422, "no setting 'input_size'", {"files": upload(PORTRAIT), "params": {"method": "mtcnn", "input_size": 256}}),
    ],
)
def test_a_refusal_says_what_to_do(client: TestClient, status: int, words: str, given: dict[str, Any]) -> None:
    if given.get("files") == []:  # a form with text only, in multipart
        body = b'--b\r\nContent-Disposition: form-data; name="photos"\r\n\r\ndata:image/png\r\n--b--\r\n'
        given = {"content": body, "headers": {"content-type": "multipart/form-data; boundary=b"}}
    if given.get("data") == {}:
        given = {"content": b"--b--\r\n", "headers": {"content-type": "multipart/form-data; boundary=b"}}
    answer = client.post("/v1/detect", **given)
    assert answer.status_code == status
    assert words in answer.json()["error"]
    assert client.get("/health").json()["taken"] == 0


def test_a_drawn_photo_is_the_librarys(client: TestClient, detectors: Detectors) -> None:
    answer = client.post("/v1/draw", files=upload(PORTRAIT), params={"format": "png", "scores": False})
    assert answer.headers["content-type"] == "image/png"
    drawn = np.asarray(Image.open(io.BytesIO(answer.content)))
    expected = lineament.draw(PORTRAIT, detectors.get().detect(PORTRAIT), scores=False)
    np.testing.assert_array_equal(drawn, np.asarray(expected))
    assert client.post("/v1/draw", files=upload(PORTRAIT, PORTRAIT)).status_code == 422
    assert "cannot be decoded" in client.post("/v1/draw", files=upload(PORTRAIT.read_bytes()[:999])).json()["error"]


def test_a_redacted_photo_is_the_librarys(client: TestClient, detectors: Detectors) -> None:
    options = {"format": "png", "style": "pixelate", "shape": "box", "margin": 0.3, "keep": [0, 2]}
    answer = client.post("/v1/redact", files=upload(CROWD), params=options)
    faces = detectors.get(verify=True).detect(CROWD, threshold=PHOTO)
    covered = faces[[i for i in range(len(faces)) if i not in (0, 2)]]
    expected = redact(CROWD, covered, Cover("pixelate", "box", 0.3))
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(answer.content))), np.asarray(expected))
    refused = client.post("/v1/redact", files=upload(PORTRAIT), params={"keep": 1, "threshold": 0.5})
    assert refused.status_code == 422
    assert refused.json()["error"] == "keep: there is no face 1; the photo has 1"


def test_faces_are_redacted_as_the_command_does_it(client: TestClient) -> None:
    """The threshold is made for verified faces, so they are verified, whichever detector finds them."""
    detectors = {verify: lineament.load("mtcnn", settings={"verify": verify}, threads=1) for verify in (True, False)}
    faces = {verify: detector.detect(CROWD, threshold=PHOTO) for verify, detector in detectors.items()}
    assert len(faces[True]) != len(faces[False])
    for verify, options in ((True, {}), (False, {"verify": False})):
        given = {"method": "mtcnn", "format": "png"} | options
        answer = client.post("/v1/redact", files=upload(CROWD), params=given)
        expected = redact(CROWD, faces[verify])
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(answer.content))), np.asarray(expected))
        given = {"method": "mtcnn", "threshold": PHOTO, "verify": verify}
        (record,) = client.post("/v1/detect", files=upload(CROWD), params=given).json()["results"]
        assert record["faces"] == json.loads(json.dumps(faces[verify].to_dict()["faces"])), "what `keep` counts"


def test_uploads_never_touch_the_disk(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile.SpooledTemporaryFile, "rollover", lambda _: pytest.fail("a file was written"))
    large = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (900, 1200, 3), np.uint8)).save(large, "png")
    assert len(large.getvalue()) > 3 * 2**20
    assert client.post("/v1/detect", files=upload(large.getvalue())).status_code == 200


def test_few_detectors_are_in_memory(detectors: Detectors) -> None:
    for size in range(128, 128 + 32 * (LOADED + 2), 32):
        detectors.get(LITE, None, size)
    assert len(detectors._loaded) == LOADED
    assert detectors.get(LITE, None, size) is detectors.get(LITE, None, size)


def test_own_weights_are_offered_by_name_only(tmp_path: Path) -> None:
    (tmp_path / "mine.onnx").write_bytes((Path(lineament.__file__).parent / "_weights" / f"{LITE}.onnx").read_bytes())
    with TestClient(create_app(Detectors(str(tmp_path / "mine.onnx"), threads=1))) as client:
        listed = client.get("/v1/models").json()["models"]
        assert [model["name"] for model in listed if model["default"]] == ["mine"]
        assert client.post("/v1/detect", files=upload(PORTRAIT), params={"method": "mine"}).status_code == 200
        other = client.post("/v1/detect", files=upload(PORTRAIT), params={"method": str(tmp_path / "mine.onnx")})
        assert other.status_code == 422


def test_every_offered_name_detects(client: TestClient) -> None:
    models = client.get("/v1/models").json()["models"]
    chosen = [(model["name"], model["landmarks"][0]) for model in models]
    chosen += [(LITE, name) for name in next(model["landmarks"] for model in models if model["name"] == LITE)]
    for name, landmarks in chosen:
        options = {"method": name, "landmarks": landmarks, "threshold": 0.3}
        answer = client.post("/v1/detect", files=upload(PORTRAIT), params=options)
        assert answer.status_code == 200, (options, answer.text)
        assert answer.json()["results"][0]["faces"], options


def test_openapi_describes_the_answer(client: TestClient) -> None:
    described = client.get("/openapi.json").json()["paths"]["/v1/detect"]["post"]
    schema = described["responses"]["200"]["content"]["application/json"]["schema"]
    jsonschema.Draft202012Validator.check_schema(schema)
    answer = client.post("/v1/detect", files=upload(CROWD, b"no")).json()
    jsonschema.validate(answer, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"results": [{"path": "a"}]}, schema)
    assert {p["name"] for p in described["parameters"]} >= {"method", "threshold", "input_size", "landmarks"}
    assert "multipart/form-data" in described["requestBody"]["content"]


def test_metrics_count(detectors: Detectors) -> None:
    with TestClient(create_app(detectors)) as client:
        client.post("/v1/detect", files=upload(PORTRAIT, b"no"))
        client.get("/no/such/page")
        told = client.get("/metrics").text
    for line in (
        'lineament_requests_total{route="/v1/detect",status="200"} 1.0',
        'lineament_requests_total{route="page",status="404"} 1.0',
        'lineament_photos_total{outcome="read"} 1.0',
        'lineament_photos_total{outcome="unreadable"} 1.0',
        "lineament_faces_total 1.0",
        'lineament_request_seconds_count{route="/v1/detect"} 1.0',
        'lineament_places{state="free"} 16.0',
    ):
        assert line in told, told


def test_only_known_hosts_are_answered(detectors: Detectors) -> None:
    with TestClient(create_app(detectors, hosts=["localhost"])) as client:
        assert client.get("/health", headers={"Host": "localhost:8000"}).status_code == 200
        assert client.get("/health", headers={"Host": "rebound.example"}).status_code == 400


class Slow:
    """Detectors that wait in detection until they may continue."""

    def __init__(self, detectors: Detectors) -> None:
        self.choices, self.go_on, self.begun = detectors.choices, threading.Event(), 0
        self._detector = detectors.get()

    def get(self, *_: Any) -> lineament.Detector:
        self.begun += 1
        assert self.go_on.wait(30)
        return self._detector


async def asked(app: FastAPI, count: int, meanwhile: Callable[[], None], **body: Any) -> list[httpx2.Response]:
    """The answers to equal requests at once. ``meanwhile`` runs when all are sent."""
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url="http://test") as client:
        tasks = [asyncio.create_task(client.post("/v1/detect", **body)) for _ in range(count)]
        await asyncio.sleep(0.3)
        meanwhile()
        return await asyncio.gather(*tasks)


def test_a_thousand_uploads_at_once_take_the_places_and_the_rest_is_told_to_come_back(detectors: Detectors) -> None:
    slow = Slow(detectors)
    app = create_app(slow, Limits(places=6, workers=2))  # type: ignore[arg-type]
    answers = asyncio.run(asked(app, 1000, slow.go_on.set, files=upload(PORTRAIT)))
    served = [answer for answer in answers if answer.status_code == 200]
    refused = [answer for answer in answers if answer.status_code == 429]
    assert (len(served), len(refused)) == (6, 994)
    assert len({answer.text for answer in served}) == 1
    assert all(answer.headers["retry-after"] == "1" for answer in refused)


def test_a_place_is_taken_until_the_work_ends_though_the_time_is_out(detectors: Detectors) -> None:
    slow = Slow(detectors)
    app = create_app(slow, Limits(places=2, workers=1, seconds=0.2))  # type: ignore[arg-type]
    answers = asyncio.run(asked(app, 2, lambda: None, files=upload(PORTRAIT)))
    assert [answer.status_code for answer in answers] == [503, 503]
    assert "not finished within 0.2 seconds" in answers[0].json()["error"]
    with TestClient(app) as client:
        assert client.get("/health").json()["taken"] == 1  # in progress; the waiting one was dropped
        slow.go_on.set()
        while client.get("/health").json()["taken"]:
            time.sleep(0.01)
    assert slow.begun == 1


def test_an_upload_that_never_ends_loses_its_place(detectors: Detectors) -> None:
    async def endless() -> AsyncIterator[bytes]:
        yield b"--b\r\n"
        await asyncio.sleep(30)

    app = create_app(detectors, Limits(seconds=0.2))
    headers = {"content-type": "multipart/form-data; boundary=b"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lineament.serve.limits.LINGER_SECONDS", 0.1)
        (answer,) = asyncio.run(asked(app, 1, lambda: None, content=endless(), headers=headers))
    assert answer.status_code == 503
    with TestClient(app) as client:
        assert client.get("/health").json()["taken"] == 0


def test_a_server_under_load_answers_as_the_library_and_ends_its_work(detectors: Detectors) -> None:
    body = httpx2.Request("POST", "http://test", files=upload(PORTRAIT))
    content, headers = body.read(), {"Content-Type": body.headers["content-type"]}
    expected = lineament.load(LITE, threads=1).detect(PORTRAIT).to_dict()["faces"]

    def ask(port: int, content: bytes, times: int = 4) -> list[tuple[int, Any]]:
        connection = HTTPConnection("127.0.0.1", port, timeout=30)
        answers = []
        for _ in range(times):
            connection.request("POST", "/v1/detect", content, headers)
            answer = connection.getresponse()
            answers.append((answer.status, json.loads(answer.read())))
        connection.close()
        return answers

    with running("-m", LITE, "--max-megabytes", "1") as server, ThreadPoolExecutor(8) as clients:
        for answers in clients.map(ask, [server.port] * 8, [content] * 8):
            assert [(status, told["results"][0]["faces"]) for status, told in answers] == [(200, expected)] * 4
        headers["Content-Length"] = str(300 * 2**20)
        connection = HTTPConnection("127.0.0.1", server.port, timeout=30)
        connection.request("POST", "/v1/detect", (bytes(2**20) for _ in range(16)), headers)
        assert connection.getresponse().status == 413  # no broken pipe, although the body is not sent yet
        connection.close()
        del headers["Content-Length"]
        last = clients.submit(ask, server.port, content, 1)
        time.sleep(0.05)
        server.process.send_signal(signal.SIGTERM)
        assert last.result()[0][0] == 200
        assert server.process.wait(30) in (0, -signal.SIGTERM)


def test_a_port_in_use_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        result = CliRunner().invoke(commands, ["serve", "--port", str(other.getsockname()[1])])
    assert result.exit_code == 2
    assert "choose another --port" in result.output


@pytest.mark.parametrize(
    ("given", "missing", "words"),
    [
        ([], "uvicorn", "lineament serve needs uvicorn, of the extra 'serve'"),
        (["--workers", "20"], "", "places are at least as many as workers, found 16"),
        (["--timeout", "0"], "", "seconds lie between 0.001 and a day, found 0.0"),
        (["-m", "none.onnx", "--port", "0"], "", "unknown method or weight file 'none.onnx'"),
    ],
)
def test_a_server_that_cannot_start_says_why(
    given: list[str], missing: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if missing:
        monkeypatch.setitem(sys.modules, missing, None)
    result = CliRunner().invoke(commands, ["serve", *given])
    assert result.exit_code == 2
    assert words in result.output.replace("\n", " ")
