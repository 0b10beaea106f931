"""Scores of image sets. Takes any iterable of uint8 batches (B, 3, H, W); knows nothing of data or models."""

from discli.evaluation.features.convention import CONVENTIONS, Convention, find_convention
from discli.evaluation.features.dinov2 import DinoV2
from discli.evaluation.features.inception import Inception
from discli.evaluation.features.random_features import RandomFeatures
from discli.evaluation.metrics.effect_of_n import SIZES, SMALLEST_N, BlockMoments, EffectOfN, effect_of_n
from discli.evaluation.metrics.frechet import frechet_distance
from discli.evaluation.metrics.inception_score import InceptionScore
from discli.evaluation.metrics.kid_prc import NEIGHBOURS, FeatureBuffer, kernel_distance, precision_recall
from discli.evaluation.metrics.measure import Extractor, Meter, measure
from discli.evaluation.metrics.moments import Gaussian, Moments
from discli.evaluation.metrics.names import METRICS, RANDOM_FD, score_name
from discli.evaluation.metrics.nearest import Nearest
from discli.evaluation.metrics.npz import (
    NpzImages,
    ReferenceStatistics,
    holds_images,
    read_statistics,
    write_statistics,
)
from discli.evaluation.metrics.per_class import PerClassMoments

__all__ = [
    "CONVENTIONS",
    "METRICS",
    "NEIGHBOURS",
    "RANDOM_FD",
    "SIZES",
    "SMALLEST_N",
    "BlockMoments",
    "Convention",
    "DinoV2",
    "EffectOfN",
    "Extractor",
    "FeatureBuffer",
    "Gaussian",
    "Inception",
    "InceptionScore",
    "Meter",
    "Moments",
    "Nearest",
    "NpzImages",
    "PerClassMoments",
    "RandomFeatures",
    "ReferenceStatistics",
    "effect_of_n",
    "find_convention",
    "frechet_distance",
    "holds_images",
    "kernel_distance",
    "measure",
    "precision_recall",
    "read_statistics",
    "score_name",
    "write_statistics",
]
