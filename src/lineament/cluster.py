"""Detection in very many photos on a Ray cluster: photos in, Parquet out, partition by partition.

The names of the photos are listed once, into ``_photos.parquet``, whose row groups are the partitions. Each partition
becomes one file, which appears when it is complete. So nothing is lost or written twice when a process is killed, and a
stopped run continues with the partitions that are not there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any
from uuid import uuid4

from lineament import many
from lineament.detector import load
from lineament.errors import ImageError, LineamentError, MissingExtraError, OptionError
from lineament.images import MAX_PIXELS, SUFFIXES
from lineament.weights import DEFAULT

try:
    import pyarrow as pa
    import ray
    from pyarrow import fs
    from pyarrow import parquet as pq
except ImportError as error:
    raise MissingExtraError.of("ray", f"detection on a cluster needs {error.name}") from error

PHOTOS = "_photos.parquet"  # readers of Parquet folders pass over names with an underscore or a dot
RUN = "_run.json"
RETRIES = 3  # of a partition whose process was killed
PARTITION = 1000  # photos: minutes of work, and a file of about a megabyte

FACE = pa.struct(
    [
        ("box", pa.list_(pa.float32())),
        ("score", pa.float32()),
        ("landmarks", pa.list_(pa.list_(pa.float32()))),
        ("landmark_scores", pa.list_(pa.float32())),
    ]
)
SCHEMA = pa.schema(
    [
        ("path", pa.string()),
        ("error", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("method", pa.string()),
        ("schema", pa.string()),
        ("faces", pa.list_(FACE)),
    ]
)
"""Columns of the result: those of ``lineament detect --json``. ``error`` is null where a photo was read."""


def detect_folder(
    photos: str,
    out: str,
    name: str = DEFAULT,
    *,
    workers: int | None = None,
    partition: int = PARTITION,
    threshold: float | None = None,
    min_face: float | None = None,
    max_face: float | None = None,
    max_pixels: int = MAX_PIXELS,
    progress: Callable[[int, int], None] = lambda done, total: None,
    **options: Any,
) -> int:
    """Detect the faces in all photos below a folder, and write them as Parquet. A stopped run continues.

    Ray must be initialised, or it starts on this machine (or, with ``RAY_ADDRESS``, connects to a cluster).

    Args:
        photos: A folder, or an address such as ``s3://bucket/photos``, that all machines of the cluster can read.
        out: A folder or address for the result, that all machines can write.
        name: As in ``lineament.load``.
        workers: Number of detectors, each in a process of its own. ``None``: one for each processor of the cluster.
        partition: Number of photos in a file of the result.
        threshold: As in ``Detector.detect``.
        min_face: As in ``Detector.detect``.
        max_face: As in ``Detector.detect``.
        max_pixels: Larger photos are refused.
        progress: Called with the number of finished partitions and of all.
        options: Further arguments of ``lineament.load``; one thread, if they do not say otherwise.

    Returns:
        The number of photos.

    Raises:
        ImageError: There is no photo.
        OptionError: An argument is wrong, or ``out`` has the results of another run.
        MissingExtraError: Ray is not installed (extra ``ray``).
    """
    options = {"threads": 1} | options
    limits: dict[str, Any] = {
        "threshold": threshold,
        "min_face": min_face,
        "max_face": max_face,
        "max_pixels": max_pixels,
    }
    detector = load(name, **options)
    list(many.records(detector, [], **limits))  # wrong arguments are reported here
    source, root = _place(photos)
    target, folder = _place(out)
    target.create_dir(folder, recursive=True)
    described = detector.describe(threshold=threshold, min_face=min_face) | {"max_face": max_face}
    run = {
        "photos": photos,
        "partition": partition,
        "detector": described,
        "options": repr(sorted(options.items())),
    }
    _begin(target, folder, run, lambda: _names(source, root), partition)
    with target.open_input_file(f"{folder}/{PHOTOS}") as file:
        listed = pq.ParquetFile(file).metadata
        count, total = listed.num_rows, listed.num_row_groups
    there = {info.base_name for info in target.get_file_info(fs.FileSelector(folder))}
    missing = [number for number in range(total) if _file(number) not in there]
    progress(total - len(missing), total)
    if missing:
        if not ray.is_initialized():
            ray.init(log_to_driver=False, include_dashboard=False)
        workers = workers or max(int(ray.cluster_resources().get("CPU", 1)), 1)
        actor = ray.remote(num_cpus=1, max_restarts=-1, max_task_retries=RETRIES)(_Worker)
        places = (photos, out, described)
        actors = [actor.remote(name, options, limits, *places) for _ in range(min(workers, len(missing)))]
        pool = ray.util.ActorPool(actors)
        finished = pool.map_unordered(lambda worker, number: worker.work.remote(number), missing)
        try:
            for done, _ in enumerate(finished, total - len(missing) + 1):
                progress(done, total)
        except ray.exceptions.RayActorError as error:
            raise LineamentError(
                f"a process was killed {RETRIES + 1} times at the same photos, often for want of memory; take fewer "
                "workers on each machine. The same command continues"
            ) from error
        finally:
            for each in actors:
                ray.kill(each)
    return int(count)


def _place(address: str) -> tuple[Any, str]:
    """The file system of an address, and the path in it."""
    try:
        if "://" in address:
            return fs.FileSystem.from_uri(address)
        return fs.LocalFileSystem(), str(Path(address).resolve())
    except (pa.ArrowInvalid, OSError) as error:
        raise OptionError(f"{address}: expected a folder, or an address such as s3://bucket/folder: {error}") from error


def _file(number: int) -> str:
    return f"part-{number:06}.parquet"


def _names(source: Any, root: str) -> Iterator[str]:
    """The photos below a folder, one folder listed at a time; hidden files and folders are passed over."""
    folders = [root]
    while folders:
        infos = sorted(source.get_file_info(fs.FileSelector(folders.pop())), key=lambda info: info.path)
        shown = [info for info in infos if not info.base_name.startswith(".")]
        folders += [info.path for info in reversed(shown) if info.type == fs.FileType.Directory]
        for info in shown:
            if info.type == fs.FileType.File and f".{info.extension.lower()}" in SUFFIXES:
                yield info.path


def _begin(target: Any, folder: str, run: Mapping[str, Any], names: Callable[[], Iterator[str]], size: int) -> None:
    """Write what runs, and the list of photos, or check that they are there from the same run."""
    told = json.dumps(run, indent=1, sort_keys=True).encode()
    if target.get_file_info(f"{folder}/{RUN}").type == fs.FileType.File:
        with target.open_input_stream(f"{folder}/{RUN}") as file:
            if file.read() != told:
                raise OptionError(f"{folder} has the results of other photos or options; choose another folder")
        return
    names_left = names()
    first = list(islice(names_left, size))
    if not first:
        raise ImageError(f"{run['photos']}: no image in this folder; looked for {', '.join(sorted(SUFFIXES))}")
    schema = pa.schema([("path", pa.string())])
    with _whole(target, f"{folder}/{PHOTOS}") as part, pq.ParquetWriter(part, schema) as writer:
        while first:
            writer.write_table(pa.table({"path": first}, schema), row_group_size=size)
            first = list(islice(names_left, size))
    with _whole(target, f"{folder}/{RUN}") as part:
        part.write(told)


@contextmanager
def _whole(target: Any, path: str) -> Iterator[Any]:
    """A stream to a file that appears when it is complete. On object stores every file does."""
    local = isinstance(target, fs.LocalFileSystem)
    part = f"{path.rpartition('/')[0]}/.{uuid4().hex}.part" if local else path
    with target.open_output_stream(part) as file:
        yield file
    if local:
        target.move(part, path)


class _Worker:
    """A detector in a process of the cluster."""

    def __init__(
        self,
        name: str,
        options: Mapping[str, Any],
        limits: Mapping[str, Any],
        photos: str,
        out: str,
        told: Mapping[str, Any],
    ) -> None:
        self._detector, self._limits = load(name, **options), limits
        self._source, _ = _place(photos)
        self._target, self._folder = _place(out)
        self._schema = SCHEMA.with_metadata({"detector": json.dumps(told)})

    def work(self, number: int) -> None:
        """Detect in the photos of a partition, and write its file."""
        with self._target.open_input_file(f"{self._folder}/{PHOTOS}") as file:
            names = pq.ParquetFile(file).read_row_group(number)["path"].to_pylist()
        photos: Iterator[tuple[str, Any]] = ((name, _Later(self._source, name)) for name in names)
        found = many.records(self._detector, photos, **self._limits)
        records = [{key: value for key, value in record.items() if key != "detector"} for record in found]
        with _whole(self._target, f"{self._folder}/{_file(number)}") as part:
            pq.write_table(pa.Table.from_pylist(records, self._schema), part)


class _Later:
    """A file that is opened when it is read, so that one that is not there is an error of its own record."""

    def __init__(self, source: Any, name: str) -> None:
        self._source, self.name = source, name

    def read(self) -> bytes:
        """The content."""
        with self._source.open_input_stream(self.name) as file:
            return bytes(file.read())
