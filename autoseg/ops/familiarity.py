"""How far a vector of features lies from those of training images."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float64]
USUAL = 0.95  # share of unseen usual images that count as usual


@dataclass(frozen=True, kw_only=True)
class Familiar:
    """What the features of training images are like.

    Attributes:
        mean: (F,) of the training images.
        scale: (F,) their standard deviations, by which features are divided; 1 where one never changes.
        covariance: (F, F) of the divided features, shrunk, so that it has an inverse.
        unseen: (n,) distances of images of the same kind that the network was not trained with.
    """

    mean: Vectors
    scale: Vectors
    covariance: Vectors
    unseen: Vectors

    @cached_property
    def _whitening(self) -> Vectors:
        whitening: Vectors = np.linalg.inv(np.linalg.cholesky(self.covariance))
        return whitening

    def distances(self, features: Vectors) -> Vectors:
        """Mahalanobis distances of vectors (n, F), (n,)."""
        distances: Vectors = np.linalg.norm((features - self.mean) / self.scale @ self._whitening.T, axis=1)
        return distances

    @property
    def limit(self) -> float:
        """The distance that 95 % of the unseen images stay below."""
        return float(np.quantile(self.unseen, USUAL))

    def strangeness(self, features: Vectors) -> Vectors:
        """Distances of vectors (n, F) as multiples of `limit`, (n,)."""
        return self.distances(features) / self.limit


def familiar_with(seen: Vectors, unseen: Vectors) -> Familiar | None:
    """Learn what is usual.

    Args:
        seen: features (n, F) of training images.
        unseen: features (m, F) of other images of the same kind.

    Returns:
        None where that cannot be told: fewer than two training images, none unseen, or no difference between them.
    """
    if len(seen) < 2 or not len(unseen):
        return None
    mean, spread = seen.mean(axis=0), seen.std(axis=0)
    changes = spread > 1e-5 * np.maximum(1, np.abs(mean))  # less would be lost in float32, in which it is stored
    scale = np.where(changes, spread, 1.0)
    if not changes.any():
        return None
    familiar = Familiar(mean=mean, scale=scale, covariance=shrunk_covariance((seen - mean) / scale), unseen=np.ones(1))
    distances = familiar.distances(unseen)
    if not np.quantile(distances, USUAL) > 0:
        return None
    return Familiar(mean=mean, scale=scale, covariance=familiar.covariance, unseen=distances)


def shrunk_covariance(vectors: Vectors) -> Vectors:
    """Covariance (F, F) of vectors (n, F), shrunk towards a multiple of the identity (OAS: Chen et al. 2010)."""
    n, size = vectors.shape
    centred = vectors - vectors.mean(axis=0)
    covariance: Vectors = centred.T @ centred / n
    middle = np.trace(covariance) / size
    squares = (covariance**2).mean()
    above, below = squares + middle**2, (n + 1) * (squares - middle**2 / size)
    weight = 1.0 if below <= 0 else min(1.0, above / below)
    shrunk: Vectors = (1 - weight) * covariance
    shrunk[np.diag_indices(size)] += weight * middle
    return shrunk
