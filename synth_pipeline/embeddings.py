"""From 478 points to an embedding whose cosine tells faces apart.

Raw cosines saturate: on phantoms 0.999 to the own class and 0.997 to another. So an embedding is
fitted to the real training photos of the study: what they have in common is subtracted, and what
varies *within* a class (expression, pose that alignment left over, MediaPipe's own error) counts
less than what varies between classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from synth_pipeline import measures
from synth_pipeline.config import Embedding
from synth_pipeline.errors import InputError

# MediaPipe's points: irises' centres, nose tip, mouth corners.
_FIVE = (468, 473, 4, 61, 291)
_MESH_POINTS = 468
_ROUNDS = 3
#: Directions of shape that are kept, where there are faces enough to know them.
_DIRECTIONS = 60
_SHRINKAGE = 0.1
#: The least standard deviation by which a measure is divided, as a share of the usual one.
_FLOOR = 0.2


@dataclass(frozen=True)
class Population:
    """What the real training photos have in common; embeds any face against it.

    Attributes:
        reference: (468, 3) mean shape that others are aligned to (`mesh` and `combined`).
        mean: (F,) of the raw features over the training photos.
        projection: (F, D) from centred features to the embedding.
    """

    embedding: Embedding
    reference: np.ndarray
    mean: np.ndarray
    projection: np.ndarray

    def embed(self, points_px: np.ndarray) -> np.ndarray:
        """Embed faces.

        Args:
            points_px: (N, 478, 3) float32 pixels.

        Returns:
            (N, D) float64, the population's mean at the origin.
        """
        features = _features(self.embedding, points_px, self.reference)
        return (features - self.mean) @ self.projection


def fit(embedding: Embedding, points_px: np.ndarray, labels: Sequence[int]) -> Population:
    """Fit an embedding to the real training photos of all classes.

    `five-point` is RDFace's: the 25 pairwise distances of five landmarks, here centred and scaled
    by the population. `mesh` takes all points after a similarity alignment in three dimensions,
    `distances` the named measures of `measures`, each in standard deviations, `combined` both with
    equal weight. These keep the directions in which faces vary most, and whiten them by the
    covariance within classes (linear discriminant analysis, Fisher 1936), shrunk towards a sphere.

    Args:
        embedding: which one.
        points_px: (N, 478, 3) float32 pixels, N at least 2.
        labels: class of each face.

    Raises:
        InputError: all faces are the same, so nothing can be told apart.
    """
    points = points_px.astype(np.float64)
    reference = _normalised(points[:1, :_MESH_POINTS])[0]
    if embedding in ("mesh", "combined"):
        # Generalised Procrustes analysis (Gower 1975): align to the mean, and again to the new one.
        for _ in range(_ROUNDS):
            aligned = _aligned(points[:, :_MESH_POINTS], reference)
            reference = _normalised(aligned.mean(0, keepdims=True))[0]
    features = _features(embedding, points, reference)
    mean = features.mean(0)
    centred = features - mean
    if float(np.sqrt((centred**2).mean())) < 1e-9:
        raise InputError(
            "The landmarks of all training photos are the same, so no class can be told from "
            "another; look whether cases.source holds one photo many times."
        )
    scale = _scale(embedding, centred)
    if embedding == "five-point":
        return Population(embedding, reference, mean, np.diag(scale))
    projection = _discriminant(centred * scale, np.asarray(labels))
    return Population(embedding, reference, mean, scale[:, None] * projection)


def _scale(embedding: Embedding, centred: np.ndarray) -> np.ndarray:
    """(F,) what features are multiplied by before directions are looked for among them."""
    if embedding == "mesh":
        return np.ones(centred.shape[1])
    if embedding == "combined":
        # Both parts vary by 1 in all.
        points, named = np.split(centred, [3 * _MESH_POINTS], axis=1)
        whole = np.full(points.shape[1], 1 / max(float(np.sqrt(points.var(0).sum())), 1e-12))
        single = _scale("distances", named)
        return np.concatenate([whole, single / np.sqrt((named * single).var(0).sum())])
    deviation = centred.std(0)
    # Never divide by next to nothing: the diagonal of the 25 distances is always zero.
    return 1 / np.maximum(deviation, _FLOOR * float(np.sqrt((deviation**2).mean())))


def _discriminant(centred: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(F, D) projection onto the main directions, whitened by what varies within classes."""
    count = max(1, min(_DIRECTIONS, len(centred) // 2))
    _, sizes, directions = np.linalg.svd(centred, full_matrices=False)
    # Directions without any variance carry rounding errors only.
    count = max(1, min(count, int((sizes > 1e-9 * sizes[0]).sum())))
    main = directions[:count].T
    # The sign of a singular vector is arbitrary; fixed, so that libraries cannot flip it.
    main = main * np.sign(main[np.abs(main).argmax(0), np.arange(count)])
    scores = centred @ main
    within = scores - np.stack([scores[labels == label].mean(0) for label in labels])
    freedom = len(scores) - len(set(labels.tolist()))
    if freedom < 1:
        # One photo of each class tells nothing of what varies within one.
        return main / scores.std(0)
    covariance = within.T @ within / freedom
    shrinkage = max(_SHRINKAGE, 0.5 * count / (count + freedom))
    sphere = np.eye(count) * np.trace(covariance) / count
    variances, axes = np.linalg.eigh((1 - shrinkage) * covariance + shrinkage * sphere)
    return main @ axes / np.sqrt(np.maximum(variances, 1e-12 * variances.max()))


def cosine(a_ND: np.ndarray, b_MD: np.ndarray) -> np.ndarray:
    """(N, M) cosines; a vector of length zero has cosine 0 to everything."""
    lengths_a = np.linalg.norm(a_ND, axis=1, keepdims=True)
    lengths_b = np.linalg.norm(b_MD, axis=1, keepdims=True)
    return (a_ND / np.maximum(lengths_a, 1e-12)) @ (b_MD / np.maximum(lengths_b, 1e-12)).T


def _features(embedding: Embedding, points_px: np.ndarray, reference: np.ndarray) -> np.ndarray:
    points = points_px.astype(np.float64)
    if embedding == "five-point":
        return _five_point(points)
    if embedding == "distances":
        return measures.measure(points)
    # Not -1: there may be no face at all, when none of a class's images shows one.
    mesh = _aligned(points[:, :_MESH_POINTS], reference).reshape(len(points), 3 * _MESH_POINTS)
    if embedding == "mesh":
        return mesh
    return np.concatenate([mesh, measures.measure(points)], axis=1)


def _five_point(points: np.ndarray) -> np.ndarray:
    """(N, 25): pairwise distances of five landmarks in units of the face's box."""
    flat = points[:, :, :2]
    low, high = flat.min(1, keepdims=True), flat.max(1, keepdims=True)
    five = ((flat - low) / np.maximum(high - low, 1e-9))[:, list(_FIVE)]
    distances = np.linalg.norm(five[:, :, None] - five[:, None, :], axis=3)
    return distances.reshape(len(points), 25)


def _normalised(points: np.ndarray) -> np.ndarray:
    """Shapes around the origin with centroid size 1; (N, P, 3)."""
    centred = points - points.mean(1, keepdims=True)
    return centred / np.sqrt((centred**2).sum((1, 2), keepdims=True)).clip(1e-12)


def _aligned(points: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Rotate normalised shapes onto the reference (Kabsch 1976), without mirroring."""
    shapes = _normalised(points)
    u, _, vt = np.linalg.svd(np.einsum("npi,pj->nij", shapes, reference))
    turn = np.linalg.det(u @ vt)
    u[:, :, 2] *= np.sign(turn)[:, None]
    return shapes @ (u @ vt)
