"""Shrunk covariance against scikit-learn, distances against SciPy, what is usual by construction."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import mahalanobis

from autoseg.ops.familiarity import familiar_with, shrunk_covariance


@pytest.mark.parametrize(("n", "size"), [(2, 1), (2, 5), (5, 40), (40, 5), (300, 12), (3, 3)])
def test_the_covariance_is_that_of_oas(n: int, size: int) -> None:
    covariance = pytest.importorskip("sklearn.covariance")
    rng = np.random.default_rng(n * size)
    vectors = rng.normal(3, 2, (n, size)) @ rng.normal(0, 1, (size, size))
    reference = covariance.OAS().fit(vectors).covariance_
    np.testing.assert_allclose(shrunk_covariance(vectors), reference, rtol=1e-9, atol=1e-12)


def test_distances_are_mahalanobis_of_the_divided_features() -> None:
    rng = np.random.default_rng(0)
    seen, unseen, new = (rng.normal(0, 1, (n, 6)) * [1, 2, 3, 1, 100, 0.01] for n in (50, 10, 7))
    familiar = familiar_with(seen, unseen)
    assert familiar is not None
    divided = (seen - seen.mean(axis=0)) / seen.std(axis=0)
    inverse = np.linalg.inv(shrunk_covariance(divided))
    for vector, distance in zip(new, familiar.distances(new), strict=True):
        point = (vector - seen.mean(axis=0)) / seen.std(axis=0)
        assert distance == pytest.approx(mahalanobis(point, np.zeros(6), inverse))
    np.testing.assert_allclose(familiar.unseen, familiar.distances(unseen))
    assert familiar.limit == pytest.approx(np.percentile(familiar.unseen, 95))
    np.testing.assert_allclose(familiar.strangeness(new) * familiar.limit, familiar.distances(new))


def test_scale_and_shift_of_a_feature_do_not_matter() -> None:
    rng = np.random.default_rng(1)
    seen, unseen, new = (rng.normal(0, 1, (n, 30)) for n in (12, 5, 4))
    factor, shift = rng.uniform(0.01, 100, 30), rng.normal(0, 50, 30)
    plain, moved = (familiar_with(a, b) for a, b in ((seen, unseen), (seen * factor + shift, unseen * factor + shift)))
    assert plain is not None
    assert moved is not None
    np.testing.assert_allclose(plain.strangeness(new), moved.strangeness(new * factor + shift), rtol=1e-6)


def test_one_in_twenty_of_the_unseen_is_unusual() -> None:
    rng = np.random.default_rng(2)
    seen, unseen, new = (rng.normal(0, 1, (n, 20)) for n in (100, 400, 2000))
    familiar = familiar_with(seen, unseen)
    assert familiar is not None
    assert (familiar.strangeness(new) > 1).mean() == pytest.approx(0.05, abs=0.03)
    assert (familiar.strangeness(new + 3) > 1).all()


def test_a_feature_that_never_changed_counts_when_it_does() -> None:
    rng = np.random.default_rng(3)
    seen, unseen = (rng.normal(0, 1, (n, 4)) for n in (20, 20))
    seen[:, 2] = unseen[:, 2] = 7.0
    familiar = familiar_with(seen, unseen)
    assert familiar is not None
    other = unseen.copy()
    other[:, 2] = 9.0
    assert (familiar.strangeness(other) > familiar.strangeness(unseen)).all()


@pytest.mark.parametrize(
    ("n_seen", "n_unseen", "constant"), [(1, 3, False), (0, 3, False), (5, 0, False), (5, 3, True)]
)
def test_too_little_to_tell_is_none(n_seen: int, n_unseen: int, constant: bool) -> None:
    rng = np.random.default_rng(4)
    seen, unseen = (np.ones((n, 3)) if constant else rng.normal(0, 1, (n, 3)) for n in (n_seen, n_unseen))
    assert familiar_with(seen, unseen) is None
