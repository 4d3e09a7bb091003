"""One HTML page that compares detectors: scores, curves and the faces they got wrong."""

from __future__ import annotations

import base64
import io
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from lineament import boxes as box_ops
from lineament.errors import DataError, ImageError, MissingExtraError
from lineament.evaluate.results import Result, read_result
from lineament.files import write_whole
from lineament.images import read_image

try:
    import jinja2
    import matplotlib
    from matplotlib.figure import Figure
except ImportError as error:
    raise MissingExtraError.of("report", f"a report needs {error.name}") from error

logger = logging.getLogger(__name__)

TEMPLATE = Path(__file__).with_name("report.html.j2")
THUMBNAIL = 128
EXAMPLES = 12  # of each kind and detector


@dataclass(frozen=True)
class Table:
    """Scores by row, one column per detector."""

    title: str
    columns: tuple[str, ...]
    rows: dict[str, tuple[str, ...]]


@dataclass(frozen=True)
class Drawing:
    """A figure, for the page and for papers."""

    name: str
    svg: bytes
    png: bytes

    @property
    def source(self) -> str:
        """The source of an ``img`` that needs no other file."""
        return "data:image/svg+xml;base64," + base64.b64encode(self.svg).decode()


@dataclass(frozen=True)
class Thumbnail:
    """A face that a detector got wrong."""

    caption: str
    source: str


@dataclass(frozen=True)
class Section:
    """Everything about one protocol on one set of images."""

    title: str
    settings: tuple[str, ...]
    tables: list[Table] = field(default_factory=list)
    drawings: list[Drawing] = field(default_factory=list)
    thumbnails: dict[str, list[Thumbnail]] = field(default_factory=dict)


def write_report(folder: str | Path, out: str | Path, images: str | Path | None = None) -> list[Path]:
    """Write a page with every result in a folder, and its figures in a folder beside it.

    Args:
        folder: Folder of the JSON files that ``lineament evaluate ... --json`` wrote, at any depth.
        out: The page. The figures are in a folder with its name and ``-figures``.
        images: Folder for the paths of examples. Examples without an image are left out.

    Returns:
        The files written, the page first.

    Raises:
        DataError: The folder has no result, or two results of one detector for the same images and protocol.
    """
    out = Path(out)
    results, skipped = _read(Path(folder))
    sections = [_section(key, group, images) for key, group in _grouped(results).items()]
    names = tuple(dict.fromkeys(result.name for _, result in results))
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    page = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        names=names, sections=sections, skipped=[str(path) for path in skipped]
    )
    figures = out.with_name(f"{out.stem}-figures")
    written = [out]
    write_whole(out, page)
    for number, section in enumerate(sections, 1):
        for drawing in section.drawings:
            for suffix, content in (("svg", drawing.svg), ("png", drawing.png)):
                written.append(figures / f"{number}-{drawing.name}.{suffix}")
                write_whole(written[-1], content)
    return written


def _read(folder: Path) -> tuple[list[tuple[Path, Result]], list[Path]]:
    """The results by file, and the JSON files that are not results."""
    results, skipped = [], []
    for path in sorted(folder.rglob("*.json")):
        try:
            results.append((path, read_result(path)))
        except DataError as error:
            logger.warning("left out of the report: %s", error)
            skipped.append(path)
    if not results:
        raise DataError(
            f"{folder}: no result of `lineament evaluate ... --json` in it"
            + (f" ({len(skipped)} other JSON files)" if skipped else "")
        )
    return results, skipped


def _grouped(results: Sequence[tuple[Path, Result]]) -> dict[str, list[Result]]:
    """Comparable results: of one protocol on one set of images."""
    groups: dict[str, dict[str, tuple[Path, Result]]] = {}
    for path, result in results:
        title = " · ".join(filter(None, (result.protocol, str(result.settings.get("data") or ""))))
        group = groups.setdefault(title, {})
        if result.name in group:
            raise DataError(
                f"{path}: a second result of {result.name!r} for {title}, after {group[result.name][0]}; "
                "give one of them another --name"
            )
        group[result.name] = path, result
    return {title: [result for _, result in group.values()] for title, group in groups.items()}


def _section(title: str, results: list[Result], images: str | Path | None) -> Section:
    return Section(
        title=title,
        settings=tuple(line for result in results for line in _settings(result)),
        tables=_tables(results),
        drawings=[draw_curves(name, results) for name in _unique(_figure(c) for r in results for c in r.curves)],
        thumbnails=_thumbnails(results, images),
    )


def _settings(result: Result) -> list[str]:
    """Lines for a result's settings, its origin and each of its notes."""
    plain = ", ".join(f"{name} {value}" for name, value in result.settings.items() if value and name != "notes")
    lines = (plain, _origin(result.origin), *result.settings.get("notes", []))
    return [f"{result.name}: {line}" for line in lines if line]


def _origin(origin: Mapping[str, Any]) -> str:
    """Date, code, weights and machine in a line. Empty without an origin."""
    if not origin:
        return ""
    weights = [f"{used['file']} {used['sha256'][:8]}" for used in origin["weights"]]
    code = " ".join(filter(None, ("lineament", origin["version"], origin["commit"])))
    return ", ".join((f"measured {origin['date']}", code, *weights, origin["machine"]["processor"]))


def _tables(results: list[Result]) -> list[Table]:
    names = tuple(result.name for result in results)
    scores = Table("scores", names, _rows([{"": result.scores} for result in results]))
    titles = _unique(title for result in results for title in result.tables)
    return [scores, *(Table(title, names, _rows([r.tables.get(title, {}) for r in results])) for title in titles)]


def _rows(columns: list[dict[str, dict[str, Any]]]) -> dict[str, tuple[str, ...]]:
    """One row for each score of each row."""
    keys = _unique((row, score) for column in columns for row, scores in column.items() for score in scores)
    return {
        " · ".join(filter(None, key)): tuple(_number(column.get(key[0], {}).get(key[1])) for column in columns)
        for key in keys
    }


def _number(value: float | int | None) -> str:
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}" if abs(value) < 100 else f"{value:,.1f}"


def _unique(items: Iterable[Any]) -> list[Any]:
    return list(dict.fromkeys(items))


def _figure(curve: str) -> str:
    """Curves ``time`` and ``time: baseline`` share the figure ``time``."""
    return curve.partition(":")[0]


def draw_curves(name: str, results: Sequence[Result]) -> Drawing:
    """One figure with the curves of that name of all detectors."""
    figure = Figure(figsize=(5.2, 3.9), layout="constrained")
    axes = figure.subplots()
    for result in results:
        for curve, points in result.curves.items():
            if _figure(curve) == name:
                label = " ".join(filter(None, (result.name, curve.partition(":")[2].strip())))
                marker = "o" if len(points["x"]) < 20 else None
                axes.plot(points["x"], points["y"], label=label, marker=marker, linewidth=1.5)
                axes.set_xlabel(points.get("x_label", ""))
                axes.set_ylabel(points.get("y_label", ""))
    if axes.get_xlabel() == "false positives":  # from one to many thousands
        axes.set_xscale("symlog", linthresh=1)
        axes.set_xlim(left=0)
    axes.set_title(name)
    axes.grid(alpha=0.3)
    axes.set_ylim(bottom=0)
    axes.legend(fontsize="small")
    svg, png = io.BytesIO(), io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": name}):  # the same results make the same file
        figure.savefig(svg, format="svg", metadata={"Date": None})
    figure.savefig(png, format="png", dpi=200)
    return Drawing(name.replace("/", "-").replace(" ", "-"), svg.getvalue(), png.getvalue())


def _thumbnails(results: list[Result], images: str | Path | None) -> dict[str, list[Thumbnail]]:
    """The examples with an image, by kind and detector."""
    found: dict[str, list[Thumbnail]] = {}
    for result in results:
        for example in result.examples:
            title = f"{result.name}: {example['kind']}"
            if len(found.get(title, [])) < EXAMPLES and (thumbnail := _thumbnail(example, images)):
                found.setdefault(title, []).append(thumbnail)
    return found


def _thumbnail(example: dict[str, Any], images: str | Path | None) -> Thumbnail | None:
    path = Path(example["path"])
    places = [path] if images is None else [path, Path(images) / path]
    place = next((place for place in places if place.is_file()), None)
    if place is None:
        return None
    try:
        picture = Image.fromarray(read_image(place))
    except ImageError as error:
        logger.warning("no thumbnail: %s", error)
        return None
    content = io.BytesIO()
    cut_example(picture, example).save(content, "JPEG", quality=80)
    source = "data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode()
    return Thumbnail(f"{example['value']:.3f} {path.name}", source)


def cut_example(picture: Image.Image, example: dict[str, Any]) -> Image.Image:
    """Cut out an example with its surroundings, and draw its box, landmarks (red) and true landmarks (green).

    Args:
        picture: The whole image.
        example: With ``box`` and optionally ``landmarks`` and ``truth``.

    Returns:
        A square of `THUMBNAIL` pixels.
    """
    box = np.asarray(example["box"], float)
    centre, half = box_ops.centre(box), max(float(box_ops.longer_side(box)), 8) * 0.9
    corner, scale = centre - half, THUMBNAIL / (2 * half)
    area = (*corner.tolist(), *(centre + half).tolist())
    cut = picture.transform((THUMBNAIL, THUMBNAIL), Image.Transform.EXTENT, area, Image.Resampling.BILINEAR)
    pen = ImageDraw.Draw(cut)
    pen.rectangle([*((box[:2] - corner) * scale).tolist(), *((box[2:] - corner) * scale).tolist()], outline="yellow")
    for key, color in (("truth", "lime"), ("landmarks", "red")):
        points = [point for point in example.get(key) or [] if point and None not in point]
        for x, y in ((np.asarray(points, float).reshape(-1, 2) - corner) * scale).tolist():
            pen.ellipse([x - 1.5, y - 1.5, x + 1.5, y + 1.5], fill=color)
    return cut
