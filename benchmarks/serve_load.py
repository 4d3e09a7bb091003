"""The server under load: clients send photos one after the other, and check that every answer equals the library's.

python benchmarks/serve_load.py [--clients 8] [--seconds 60] [--method kpnet]

The result is docs/results/data/serve-load.json. ``tables.py`` writes the table.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from itertools import cycle, islice
from pathlib import Path
from threading import Event
from typing import Any

import kept
import numpy as np

import lineament
from lineament.evaluate.origin import origin
from lineament.evaluate.results import Result
from lineament.weights import DEFAULT

PHOTOS = sorted((kept.ROOT / "examples" / "photos").glob("*.jpg"))
BOUNDARY = "lineament-load"
RESIDENT = re.compile(r"^process_resident_memory_bytes (\S+)", re.MULTILINE)
EVERY = 1.0  # seconds between two looks at the server's memory


def form(photo: Path) -> bytes:
    """The photo as multipart/form-data."""
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="photos"; filename="{photo.name}"\r\n\r\n'
    return head.encode() + photo.read_bytes() + f"\r\n--{BOUNDARY}--\r\n".encode()


def client(number: int, port: int, end: float, expected: dict[str, Any]) -> tuple[Counter[str], list[float]]:
    """Send photos until the end. Returns what became of the requests, and the seconds that each took."""
    outcomes: Counter[str] = Counter()
    seconds = []
    connection = HTTPConnection("127.0.0.1", port, timeout=120)
    for photo in islice(cycle(PHOTOS), number, None):
        if time.monotonic() > end:
            return outcomes, seconds
        start = time.monotonic()
        headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
        connection.request("POST", "/v1/detect", form(photo), headers)
        answer = connection.getresponse()
        told = json.loads(answer.read())
        seconds.append(time.monotonic() - start)
        if answer.status != 200:
            outcomes[f"status {answer.status}"] += 1
        else:
            outcomes["same" if told["results"][0]["faces"] == expected[photo.name] else "different"] += 1
    raise AssertionError("cycle never ends")


def memory(port: int, stop: Event) -> list[float]:
    """Resident memory of the server in MB, every second."""
    seen = []
    while not stop.wait(EVERY):
        connection = HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request("GET", "/metrics")
        found = RESIDENT.search(connection.getresponse().read().decode())
        seen.append(float(found[1]) / 2**20 if found else np.nan)
        connection.close()
    return seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--method", default=DEFAULT)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    detector = lineament.load(args.method, threads=args.threads)
    expected = {photo.name: detector.detect(photo).to_dict()["faces"] for photo in PHOTOS}
    options = ["--port", "0", "--method", args.method, "--threads", str(args.threads)]
    command = [sys.executable, "-m", "lineament", "serve", *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server, ThreadPoolExecutor() as pool:
        assert server.stderr is not None
        told = server.stderr.readline()
        address = re.search(r"http://127\.0\.0\.1:(\d+)", told)
        assert address, told
        port, stop = int(address[1]), Event()
        watching = pool.submit(memory, port, stop)
        start = time.monotonic()
        with ThreadPoolExecutor(args.clients) as clients:
            n = args.clients
            ends = [start + args.seconds] * n
            done = list(clients.map(client, range(n), [port] * n, ends, [expected] * n))
        took = time.monotonic() - start
        stop.set()
        seen = np.array(watching.result())
        server.terminate()
    outcomes = sum((outcome for outcome, _ in done), Counter())
    seconds = np.concatenate([each for _, each in done])
    fifth = max(len(seen) // 5, 1)
    scores = {
        "requests": len(seconds),
        "answers equal to the library's": outcomes["same"],
        "other answers": len(seconds) - outcomes["same"],
        "photos a second": len(seconds) / took,
        "median ms": 1000 * float(np.median(seconds)),
        "99th percentile ms": 1000 * float(np.quantile(seconds, 0.99)),
        "memory in the second fifth, MB": float(seen[fifth : 2 * fifth].mean()),
        "memory in the last fifth, MB": float(seen[-fifth:].mean()),
    }
    print(json.dumps(scores, indent=1), dict(outcomes))
    title = f"{args.clients} clients for {args.seconds:g} seconds, `{args.method}`"
    found = origin(weights=list(detector.weights), data=None, threads=args.threads)
    kept.keep("serve-load", title, Result("serve load", title, scores, origin=found))


if __name__ == "__main__":
    main()
