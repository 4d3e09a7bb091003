"""Losses of the Information-Synthesis Network (Pu): equation 3, and ours for the light network."""

from __future__ import annotations

import torch
from torch import Tensor

from lineament.train.task import divisor


def euclidean(points: Tensor, truth: Tensor, weights: Tensor) -> Tensor:
    """Equation 3, Caffe's EuclideanLoss: ``1/(2n) sum_i ||x_i - t_i||^2`` over n faces.

    Args:
        points: (n, K, 2) predicted landmarks.
        truth: (n, K, 2) labelled landmarks.
        weights: (n, K) weights of the landmarks.
    """
    return (weights * (points - truth).square().sum(2)).sum() / (2 * len(points))


def distance(points: Tensor, truth: Tensor, weights: Tensor) -> Tensor:
    """The mean distance of landmarks (n, K, 2) from the labels, with weights (n, K). NME measures this."""
    return _mean(_length(points - truth), weights)


def spread_loss(spread: Tensor, points: Tensor, truth: Tensor, weights: Tensor) -> Tensor:
    """Negative log-likelihood of the errors under a two-dimensional Laplace distribution of scale ``exp(spread)``.

    Its density is ``exp(-r / b) / (2 pi b^2)``. The landmarks themselves get no gradient from it.

    Args:
        spread: (n, K) log b.
        points: (n, K, 2) predicted landmarks.
        truth: (n, K, 2) labelled landmarks.
        weights: (n, K) weights of the landmarks.
    """
    error = _length(points - truth).detach()
    return _mean(error * torch.exp(-spread) + 2 * spread, weights)


def _length(vectors: Tensor) -> Tensor:
    return (vectors.square().sum(-1) + 1e-8).sqrt()  # otherwise its slope at 0 would be infinite


def _mean(values: Tensor, weights: Tensor) -> Tensor:
    return (values * weights).sum() / divisor(weights.sum())
