"""Utilities and batches equal those of scikit-activeml on small data."""

from __future__ import annotations

import numpy as np
import pytest

from raydelt.active.batch import Candidates, badge, gradient_distances, gradients, k_center, typical, typicality
from raydelt.active.utilities import UTILITIES

pytest.importorskip("skactiveml")

from skactiveml.classifier import ParzenWindowClassifier
from skactiveml.pool import Badge, CoreSet, TypiClust, average_kl_divergence, uncertainty_scores, vote_entropy
from skactiveml.pool._bald import batch_bald
from skactiveml.pool._typi_clust import _typicality

RNG = np.random.default_rng(12)
X = RNG.normal(size=(40, 3))
Y = np.full(40, np.nan)
Y[:6] = [0, 1, 2, 0, 1, 2]
UNLABELLED = np.arange(6, 40)
IDS = np.array([f"{i:03d}" for i in UNLABELLED], object)
P = RNG.dirichlet(np.ones(4), size=(5, 30))


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [("entropy", "entropy"), ("margin", "margin_sampling"), ("least_confidence", "least_confident")],
)
def test_uncertainties_are_equal(ours: str, theirs: str) -> None:
    assert UTILITIES[ours](P[0]) == pytest.approx(uncertainty_scores(P[0], method=theirs), rel=1e-12)


def test_disagreements_are_equal() -> None:
    votes = P.argmax(axis=-1).T
    assert UTILITIES["vote_entropy"](P) == pytest.approx(vote_entropy(votes, np.arange(4)), rel=1e-12)
    assert UTILITIES["consensus_kl"](P) == pytest.approx(average_kl_divergence(P.copy()), rel=1e-6)
    assert UTILITIES["bald"](P) == pytest.approx(batch_bald(P.copy(), batch_size=1)[0], rel=1e-6)


def test_badge_has_the_same_gradients() -> None:
    model = ParzenWindowClassifier(classes=[0, 1, 2], random_state=0).fit(X, Y)
    h, delta = X[UNLABELLED], gradients(model.predict_proba(X[UNLABELLED]))
    query = Badge(random_state=0).query(X, Y, model, fit_clf=False, batch_size=2, return_utilities=True)
    first, utilities = int(query[0][0]) - 6, query[1][:, UNLABELLED]
    lengths = np.square(delta).sum(axis=1) * np.square(h).sum(axis=1)
    assert utilities[0] == pytest.approx(lengths / lengths.sum(), rel=1e-9)
    assert badge(Candidates(IDS, h, model.predict_proba(h)), 1, seed=0).tolist() == [first]
    # Theirs keeps the origin as a centre beside those chosen, which k-means++ and the paper do not.
    mass = np.minimum(gradient_distances(delta, h, first), lengths)
    assert np.nan_to_num(utilities[1]) == pytest.approx(mass / mass.sum(), abs=1e-9)


def test_k_center_chooses_the_same_examples_in_the_same_order() -> None:
    theirs = CoreSet(random_state=0).query(X, Y, batch_size=8)
    ours = k_center(Candidates(IDS, X[UNLABELLED], labelled=X[:6]), 8, seed=0)
    assert UNLABELLED[ours].tolist() == theirs.tolist()


def test_typicality_is_equal() -> None:
    clusters = np.arange(40) % 3
    for k in (2, 20):
        own = typicality(X, clusters, neighbours=k)
        for cluster in range(3):
            rows = np.flatnonzero(clusters == cluster)
            assert own[rows] == pytest.approx(_typicality(X, rows, k)[rows], rel=1e-5)


def test_typical_chooses_the_same_examples_where_clusters_are_clear() -> None:
    sizes = [30, 22, 15, 8]
    centres = np.repeat(np.array([[0, 0], [60, 0], [0, 60], [60, 60]]), sizes, axis=0)
    x = centres + np.random.default_rng(2).normal(size=(75, 2))
    y = np.full(75, np.nan)
    y[0] = 1
    theirs = TypiClust(random_state=0, k=20, cluster_algo_dict={"n_init": 10}).query(x, y, batch_size=3)
    ours = typical(Candidates(np.array([f"{i:02d}" for i in range(1, 75)], object), x[1:], labelled=x[:1]), 3, seed=0)
    assert (ours + 1).tolist() == theirs.tolist()
