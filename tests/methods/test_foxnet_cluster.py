"""Grouping candidates into faces: neighbours against all pairs, faces that differ in position or embedding only."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("cv2")

import lineament
from lineament.boxes import iou, longer_side
from lineament.conventions import convention
from lineament.data.canvases import Canvas
from lineament.errors import OptionError, WeightsError
from lineament.evaluate.speed import FACE, mosaic
from lineament.images import read_image
from lineament.methods.foxnet import cluster, fitting
from lineament.methods.foxnet.decode import Config, FoxNetDecoder, evidence, largeness
from lineament.runtime import Graph
from lineament.schemas import SIXTY_EIGHT

WIDTH = cluster.bandwidth("cosine", 0.1)
SHAPE = convention("wider").shape


def crowd(centres: np.ndarray, sizes: np.ndarray, embeddings: np.ndarray, noise: float, seed: int = 0) -> Any:
    """The candidates of m faces: embeddings, points, sizes, scores, landmarks and faces, each of length 5 m."""
    rng = np.random.default_rng(seed)
    m = len(centres)
    points = centres[:, None] + sizes[:, None, None] * (SHAPE + rng.normal(0, 0.02, (m, 5, 2)))
    e = embeddings[:, None] + noise * rng.normal(size=(m, 5, embeddings.shape[1]))
    e /= np.linalg.norm(e, axis=2, keepdims=True)
    seen = sizes[:, None] * np.exp(rng.normal(0, 0.1, (m, 5)))
    landmark, face = np.tile(np.arange(5), m), np.repeat(np.arange(m), 5)
    order = rng.permutation(5 * m)
    flat = (e.reshape(-1, e.shape[2]), points.reshape(-1, 2), seen.ravel(), rng.uniform(0.3, 1, 5 * m), landmark, face)
    return [part[order] for part in flat]


def same_partition(one: np.ndarray, other: np.ndarray) -> bool:
    return len(np.unique(one)) == len(np.unique(other)) == len(np.unique(np.stack([one, other]), axis=1).T)


def test_the_bandwidth_is_the_chord_of_twice_the_margin() -> None:
    angle = 2 * np.arccos(1 - 0.1)
    one, other = np.array([1, 0]), np.array([np.cos(angle), np.sin(angle)])
    assert pytest.approx(np.linalg.norm(one - other)) == WIDTH
    assert cluster.bandwidth("cosine", 1.0) == pytest.approx(np.sqrt(2))
    assert cluster.bandwidth("euclidean", 0.5) == 1.0


def test_neighbours_are_those_that_all_pairs_give() -> None:
    rng = np.random.default_rng(1)
    points, sizes = rng.uniform(0, 300, (400, 2)), np.exp(rng.uniform(np.log(4), np.log(90), 400))
    group, rows = rng.integers(0, 3, 400), rng.permutation(400)[:300]
    i, j = cluster.Neighbours(points, sizes, group, 1.2).of(rows)
    apart = np.linalg.norm(points[rows, None] - points, axis=2) / sizes[rows, None]
    ratio = sizes[rows, None] / sizes
    near = (apart <= 1.2) & (ratio <= 2) & (ratio >= 0.5) & (group[rows, None] == group)
    assert len(i) == near.sum() > 700
    assert near[i, j].all()
    assert (np.diff(i) >= 0).all()
    assert len(set(zip(i.tolist(), j.tolist(), strict=True))) == len(i)


def climbed(features: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """The paper's mean shift: every candidate moves among all others. Features are relative to the bandwidth."""
    modes = features.copy()
    for _ in range(200):
        apart = ((modes[:, None] - features) ** 2).sum(axis=2)
        kernel = np.maximum(1 - apart, 0) * scores
        modes = kernel @ features / kernel.sum(axis=1, keepdims=True)
    return np.array([np.flatnonzero(((modes - mode) ** 2).sum(axis=1) < 0.25)[0] for mode in modes])


def test_faces_are_those_of_mean_shift_from_every_candidate() -> None:
    rng = np.random.default_rng(3)
    centres, embeddings = rng.uniform(40, 260, (25, 2)), rng.normal(size=(25, 8))
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    e, points, _, scores, _, _ = crowd(centres, np.full(25, 40.0), embeddings, 0.1)
    sizes = np.full(len(e), 40.0)
    found = cluster.faces(e, points, sizes, scores, np.zeros(len(e), int), width=WIDTH)
    wanted = climbed(np.column_stack([e / WIDTH, points / (cluster.REACH * 40)]), scores)
    assert same_partition(found, wanted)
    assert len(np.unique(wanted)) > 20


def test_sizes_that_no_face_has_are_no_error() -> None:
    points, sizes = np.array([[5.0, 5], [6, 5], [200, 90]]), np.array([1e-20, 1e-30, 1e30])
    found = cluster.faces(np.ones((3, 2)), points, sizes, np.full(3, 0.5), np.zeros(3, int), width=WIDTH)
    assert len(found) == 3


@pytest.mark.parametrize("k", [1, 2, 9, 400])
def test_the_same_face_tiled_is_as_many_faces(k: int) -> None:
    columns = int(np.ceil(np.sqrt(k)))
    centres = np.stack(np.divmod(np.arange(k), columns), axis=1) * 40.0 + 50
    e, points, sizes, scores, _, face = crowd(centres, np.full(k, 30.0), np.tile([[1.0, 0, 0]], (k, 1)), 0.05)
    found = cluster.faces(e, points, sizes, scores, np.zeros(len(e), int), width=WIDTH)
    assert same_partition(found, face)


def test_faces_in_front_of_each_other_are_told_apart_by_their_embeddings() -> None:
    centres, sizes = np.array([[100.0, 100], [112, 104], [95, 120]]), np.array([40.0, 36, 30])
    e, points, seen, scores, _, face = crowd(centres, sizes, np.eye(3), 0.1)
    found = cluster.faces(e, points, seen, scores, np.zeros(len(e), int), width=WIDTH)
    assert same_partition(found, face)


def test_large_and_small_faces_and_groups_stay_apart() -> None:
    centres = np.array([[200.0, 200], [200, 200], [200, 205], [300, 100]])
    sizes = np.array([200.0, 20, 20, 20])
    e, points, seen, scores, _, face = crowd(centres, sizes, np.tile([[0.0, 1]], (4, 1)), 0.05)
    found = cluster.faces(e, points, seen, scores, (face == 2).astype(int), width=WIDTH)
    assert same_partition(found, face)


def test_of_two_candidates_for_a_landmark_the_better_counts_and_missing_ones_are_said() -> None:
    names, chosen = cluster.best(np.array([7, 7, 7, 2]), np.array([1, 1, 0, 2]), np.array([0.4, 0.9, 0.5, 0.6]), 3)
    assert names.tolist() == [2, 7]
    assert chosen.tolist() == [[-1, -1, 3], [2, 1, -1]]


def test_no_candidates_are_no_faces() -> None:
    none = np.zeros(0)
    found = cluster.faces(np.zeros((0, 8)), np.zeros((0, 2)), none, none, none.astype(int), width=WIDTH)
    assert found.shape == (0,)
    assert cluster.best(found, found, none, 5)[1].shape == (0, 5)


class Told(Graph):
    """Replaces a file: every view of a batch has the same given candidates."""

    def __init__(self, candidates: Any, pad: int = 3) -> None:
        e, points, sizes, scores, landmark, _ = candidates
        peak = np.stack([landmark, np.zeros_like(landmark), np.zeros_like(landmark)], axis=1)
        logits = np.log(scores / (1 - scores))
        self.outputs = {
            "peak": np.pad(peak, ((0, pad), (0, 0))),
            "place": np.pad(points, ((0, pad), (0, 0))),
            "score": np.pad(logits, (0, pad), constant_values=-np.inf),
            "embedding": np.pad(3 * e, ((0, pad), (0, 0))),  # not normalised
            "size": np.pad(sizes, (0, pad)),
        }

    @staticmethod
    def devices() -> list[str]:
        return ["cpu"]

    def __call__(self, entry: str, outputs: tuple[str, ...], **inputs: np.ndarray) -> tuple[np.ndarray, ...]:
        assert entry == "foxnet_5"
        count = len(inputs["pixels"])
        return tuple(np.stack([self.outputs[name]] * count).astype(np.float32) for name in outputs)


CENTRES, SIZES = np.array([[100.0, 80], [300, 200], [180, 60]]), np.array([60.0, 90, 40])
PLAIN: dict[str, Any] = {"input_size": 384, "overview": False}
IMAGE = np.zeros((256, 384, 3), np.uint8)
ANY: dict[str, Any] = {"threshold": 0.1, "min_face": 1, "max_face": None}


def decoder(**settings: Any) -> FoxNetDecoder:
    candidates = crowd(CENTRES, SIZES, np.eye(3), 0.05)
    lost = (candidates[5] == 1) & (candidates[4] == 2)  # the nose of the second
    return FoxNetDecoder(Told([part[~lost] for part in candidates]), Config(**PLAIN | settings))


def test_landmarks_without_a_candidate_are_nan_with_score_0() -> None:
    (faces,) = decoder()([IMAGE], **ANY)
    assert len(faces) == 3
    lacking = np.isnan(faces.landmarks).any(axis=2)
    assert lacking.sum() == 1
    assert (faces.landmark_scores[lacking] == 0).all()
    assert (faces.landmark_scores[~lacking] > 0.2).all()
    wanted = convention("wider").boxes(CENTRES[:, None] + SIZES[:, None, None] * SHAPE)
    apart = np.abs(np.sort(faces.boxes, axis=0) - np.sort(wanted, axis=0)).max(axis=1)
    assert (apart < 0.12 * np.sort(SIZES).max()).all()


def test_they_are_filled_by_a_shape_fit_on_request() -> None:
    (faces,) = decoder(fill=True)([IMAGE], **ANY)
    (row,) = np.flatnonzero((faces.landmark_scores == 0).any(axis=1))
    assert np.linalg.norm(faces.landmarks[row, 2] - (CENTRES[1] + SIZES[1] * SHAPE[2])) < 0.08 * SIZES[1]
    with pytest.raises(OptionError, match="fill needs the mean shape of '68', which these weights lack"):
        Config(landmarks="68", schemas=("68",), fill=True)
    own = {"68": np.zeros((len(SIXTY_EIGHT), 2)).tolist()}
    assert Config(landmarks="68", schemas=("68",), fill=True, shapes=own).fill


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"evidence": {"5": [1.0]}}, "evidence has 4 coefficients for each schema, found 1 for '5'"),
        ({"learned": {"68": [{}, {}, {}]}}, "learned has 2 conventions for each schema, found 3 for '68'"),
    ],
)
def test_fits_of_another_length_teach(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(OptionError, match=told):
        Config(**settings)


def test_a_list_gives_what_its_images_give_one_by_one_and_settings_are_json() -> None:
    detect = decoder()
    together = detect([IMAGE, IMAGE[:, :300], IMAGE], **ANY)
    for image, faces in zip([IMAGE, IMAGE[:, :300], IMAGE], together, strict=True):
        (alone,) = detect([image], **ANY)
        np.testing.assert_array_equal(faces.landmarks, alone.landmarks)
    assert detect([], **ANY) == []
    assert Config(**json.loads(json.dumps(vars(detect.config)))) == replace(detect.config, pyramid=[], schemas=[])


def test_scores_and_sizes_are_thresholds() -> None:
    detect = decoder(calibration={"5": {"scores": [0, 1], "shares": [0, 0.1]}})
    (faces,) = detect([IMAGE], threshold=0.01, min_face=70, max_face=None)
    assert len(faces) == 1
    assert 0.01 < faces.scores[0] < 0.1
    assert len(detect([IMAGE], threshold=0.2, min_face=1, max_face=None)[0]) == 0


def test_what_is_fitted_to_one_schema_says_nothing_of_another() -> None:
    other = {"68": {"scores": [0, 1], "shares": [0, 0.1]}}
    (plain,), (faces,) = (detect([IMAGE], **ANY) for detect in (decoder(), decoder(calibration=other)))
    np.testing.assert_array_equal(plain.scores, faces.scores)


def test_scores_are_the_weighted_evidence_in_which_the_size_counts() -> None:
    """Weights of the size alone: the largest face first, whatever its landmarks' probabilities."""
    (faces,) = decoder(evidence={"5": [0, np.log(2), 0, 0]})([IMAGE], **ANY)
    side = longer_side(faces.boxes)
    assert (np.diff(side) < 0).all()
    np.testing.assert_allclose(faces.scores, side / (side + 32), rtol=1e-5)
    speaks = evidence(np.array([0.5, 0.9, 0.0]), np.array([32.0, 64, 1]))
    np.testing.assert_allclose(speaks[:2], [[0, 0, 0, 1], [np.log(9), 1, 1, 1]], atol=1e-12)
    assert np.isfinite(speaks).all()


def test_boxes_of_small_and_large_faces_have_their_own_conventions() -> None:
    wider = convention("wider")
    tall = replace(wider, box=wider.box * [1, 1, 1, 1.2]).to_dict()
    both, small, large, none = (
        decoder(learned=learned)([IMAGE], **ANY)[0].boxes
        for learned in (
            {"5": [tall, tall]},
            {"5": [tall, wider.to_dict()]},
            {"5": [wider.to_dict(), tall]},
            {"68": [tall, tall]},
        )
    )
    (plain,) = decoder()([IMAGE], **ANY)
    np.testing.assert_allclose(none, plain.boxes)
    share = largeness(longer_side(plain.boxes))[:, None]
    assert share.min() < 1 == share.max()
    np.testing.assert_allclose(small, plain.boxes + (1 - share) * (both - plain.boxes), atol=1e-3)
    np.testing.assert_allclose(large, plain.boxes + share * (both - plain.boxes), atol=1e-3)
    (square,) = decoder(learned={"5": [tall, tall]}, convention="square")([IMAGE], **ANY)
    np.testing.assert_allclose(*(square.boxes[:, 2:] - square.boxes[:, :2]).T, rtol=1e-5)


def canvases(faces: np.ndarray) -> list[Canvas]:
    unmarked = {"landmarks": np.zeros((len(faces), 5, 2)), "weights": np.zeros((len(faces), 5)), "outside": 0}
    unmarked |= {"ignore": np.zeros(len(faces), bool), "schema": np.zeros(len(faces), int)}
    return [Canvas(boxes=faces, pixels=IMAGE, **unmarked)]


def test_boxes_are_fitted_to_those_of_the_canvases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "LEAST_FITTED", 2)
    (found,) = decoder(candidate=0.01)([IMAGE], **ANY)
    width, height = (found.boxes[:, 2:] - found.boxes[:, :2]).T
    truth = found.boxes + np.stack([-0.1 * width, 0.1 * height, 0.1 * width, 0.2 * height], axis=1)
    learned = fitting.fit_boxes(decoder(), canvases(truth) * 20)
    assert learned is not None
    (fitted,) = decoder(learned={"5": learned})([IMAGE], **ANY)
    overlaps = [np.diag(iou(faces.boxes, truth)) for faces in (found, fitted)]
    assert overlaps[0].max() < 0.75
    assert overlaps[1].min() > 0.9
    monkeypatch.setattr(fitting, "LEAST_FITTED", 1000)
    assert fitting.fit_boxes(decoder(), canvases(truth)) is None


def test_embeddings_that_are_no_numbers_are_an_error_that_teaches() -> None:
    broken = crowd(CENTRES, SIZES, np.eye(3), 0.05)
    broken[0][:4] = np.nan
    with pytest.raises(WeightsError, match=r"embeddings of 4 of 15 landmark candidates are not finite.*diverged"):
        FoxNetDecoder(Told(broken), Config(**PLAIN))([IMAGE], **ANY)


def test_scores_that_are_no_numbers_are_an_error() -> None:
    broken = crowd(CENTRES, SIZES, np.eye(3), 0.05)
    broken[3][0] = np.nan
    with pytest.raises(WeightsError, match="scores of landmark candidates are not numbers"):
        FoxNetDecoder(Told(broken), Config(**PLAIN))([IMAGE], **ANY)


@pytest.mark.skipif("foxnet" not in [model.name for model in lineament.models()], reason="no weights of FoxNet ship")
@pytest.mark.parametrize(("k", "landmarks"), [(1, "5"), (9, "5"), (50, "5"), (9, "68")])
def test_a_portrait_tiled_is_as_many_faces_with_the_weights_that_ship(k: int, landmarks: str) -> None:
    detector = lineament.load("foxnet", landmarks=landmarks, threads=1, settings={"input_size": 640})
    picture = mosaic([read_image(FACE)], k)
    faces = detector.detect(picture)
    assert len(faces) == k
    cell = np.floor((faces.boxes[:, :2] + faces.boxes[:, 2:]) / 2 / 160)  # of the mosaic's grid
    assert len(np.unique(cell, axis=0)) == k
    points = faces.landmarks
    assert (np.isnan(points).all(axis=2) | (np.floor(points / 160) == cell[:, None]).all(axis=2)).all()
