"""The protocols on the ground truths of the field, where no answer is a matter of luck:
the perfect ranking reaches 1, the random one what chance gives."""

import io
import pickle
from typing import NamedTuple

import numpy as np
import pytest
import scipy.io
from oracle import random_average_precision

from diffjax.evaluation import evaluate, evaluate_scores
from diffjax.evaluation._cutoffs import evaluate_cutoffs

REVISITED = {"roxford5k": "oxford5k", "rparis6k": "paris6k"}
# Right answers and junk among the lists of the revisited sets.
SETUPS = {
    "easy": (["easy"], ["hard", "junk"]),
    "medium": (["easy", "hard"], ["junk"]),
    "hard": (["hard"], ["easy", "junk"]),
}
NAMES = [
    *REVISITED.values(),
    *(f"{name}-{setup}" for name in REVISITED for setup in SETUPS),
    "instre",
]


class Truth(NamedTuple):
    """Positives and junk of every query, by their positions in the database."""

    num_images: int
    positives: list[np.ndarray]
    junk: list[np.ndarray]

    def every(self, step: int) -> "Truth":
        """Truth of every `step`-th query."""
        return Truth(self.num_images, self.positives[::step], self.junk[::step])


class _Plain(pickle.Unpickler):
    """Unpickler of lists, dictionaries, numbers and text; nothing can run."""

    def find_class(self, module_name, global_name):
        raise pickle.UnpicklingError(f"names {module_name}.{global_name}")


def read_revisited(folder, name):
    """Lists of a revisited set: images, queries and positives."""
    stored = (folder / f"gnd_{name}.pkl").read_bytes()
    return _Plain(io.BytesIO(stored)).load()


def classic(folder, name):
    """Oxford or Paris: good and ok are positive; queries are in the database."""
    (revisited,) = (new for new, old in REVISITED.items() if old == name)
    lists = read_revisited(folder, revisited)
    positions = {n: i for i, n in enumerate([*lists["imlist"], *lists["qimlist"]])}

    def read(query, *kinds):
        names = [
            name
            for kind in kinds
            for name in query.with_name(f"{query.name}_{kind}.txt").read_text().split()
        ]
        return np.unique([positions[name] for name in names]).astype(np.int64)

    files = sorted((folder / name).glob("*_query.txt"))
    queries = [file.with_name(file.name.removesuffix("_query.txt")) for file in files]
    return Truth(
        len(positions),
        [read(query, "good", "ok") for query in queries],
        [read(query, "junk") for query in queries],
    )


def revisited(folder, name, setup):
    lists = read_revisited(folder, name)

    def join(kinds):
        return [
            np.concatenate([np.asarray(one[kind], np.int64) for kind in kinds])
            for one in lists["gnd"]
        ]

    right, ignored = SETUPS[setup]
    return Truth(len(lists["imlist"]), join(right), join(ignored))


def instre(folder):
    """INSTRE: ok is positive, counted from 1; nothing is junk."""
    stored = scipy.io.loadmat(folder / "gnd_instre.mat", squeeze_me=True)
    positives = [np.asarray(one, np.int64) - 1 for one in stored["gnd"]["ok"]]
    return Truth(
        len(stored["imlist"]), positives, [np.zeros(0, np.int64)] * len(positives)
    )


@pytest.fixture(scope="module", params=NAMES)
def truth(request, shared_data):
    folder, (name, _, setup) = (
        shared_data / "ground_truth",
        request.param.partition("-"),
    )
    if name == "instre":
        return instre(folder)
    return revisited(folder, name, setup) if setup else classic(folder, name)


def few_queries(truth: Truth) -> Truth:
    """Few dozen queries: complete rankings of all of INSTRE take long."""
    return truth.every(max(1, len(truth.positives) // 50))


def perfect(num_images, positives, junk):
    """Perfect ranking: junk and positives in turn, then all other images."""
    front = np.concatenate([junk[::2], positives, junk[1::2]])
    return np.concatenate([front, np.setdiff1d(np.arange(num_images), front)])


def test_perfect_rankings_reach_1(truth):
    given = few_queries(truth)
    rankings = np.stack(
        [
            perfect(truth.num_images, *lists)
            for lists in zip(given.positives, given.junk, strict=True)
        ],
        axis=1,
    )
    report = evaluate(rankings, given, num_images=truth.num_images)
    assert report.mean_average_precision == pytest.approx(1, abs=1e-12)
    first = evaluate_cutoffs(rankings, given, num_images=truth.num_images)
    np.testing.assert_array_equal(first.mean_precision, 1)


def by_chance(truth: Truth) -> np.ndarray:
    return np.array(
        [
            random_average_precision(positives.size, truth.num_images - junk.size)
            for positives, junk in zip(truth.positives, truth.junk, strict=True)
        ]
    )


def test_random_rankings_reach_the_chance_level(truth):
    given, rng = few_queries(truth), np.random.default_rng(0)
    drawn = []
    for _ in range(4):
        orders = [rng.permutation(truth.num_images) for _ in given.positives]
        report = evaluate(np.stack(orders, 1), given, num_images=truth.num_images)
        drawn.append(report.average_precision - by_chance(given))
    off = np.concatenate(drawn)
    off = off[~np.isnan(off)]
    # Off by less than 4 standard errors, and those are a small part of what chance is.
    error = off.std() / np.sqrt(off.size)
    assert abs(off.mean()) < 4 * error
    assert error < 0.2 * np.nanmean(by_chance(given))


def test_constant_scores_reach_the_chance_level(truth):
    given = few_queries(truth)
    scores = np.zeros((truth.num_images, len(given.positives)), np.float32)
    got = evaluate_scores(scores, given)
    np.testing.assert_allclose(got.average_precision, by_chance(given), rtol=1e-9)


def test_two_queries_of_revisited_oxford_have_no_easy_positives(shared_data):
    truth = revisited(shared_data / "ground_truth", "roxford5k", "easy")
    scores = np.zeros((truth.num_images, len(truth.positives)), np.float32)
    report = evaluate_scores(scores, truth)
    assert report.num_without_positives == 2
    assert np.isnan(report.average_precision).sum() == 2
