"""Scores of picture sets. Takes any iterable of uint8 batches (B, 3, H, W); knows nothing of data or models."""

from discli.metrics.convention import CONVENTIONS, Convention, find_convention
from discli.metrics.dinov2 import DinoV2
from discli.metrics.effect_of_n import SIZES, SMALLEST_N, BlockMoments, EffectOfN, effect_of_n
from discli.metrics.frechet import frechet_distance
from discli.metrics.inception import Inception
from discli.metrics.inception_score import InceptionScore
from discli.metrics.kept import NEIGHBOURS, KeptFeatures, kernel_distance, precision_recall
from discli.metrics.measure import Extractor, Meter, measure
from discli.metrics.moments import Gaussian, Moments
from discli.metrics.names import METRICS, RANDOM_FD, score_name
from discli.metrics.nearest import Nearest
from discli.metrics.npz import NpzPictures, ReferenceStatistics, holds_pictures, read_statistics, write_statistics
from discli.metrics.per_class import PerClassMoments
from discli.metrics.random_features import RandomFeatures

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
    "Gaussian",
    "Inception",
    "InceptionScore",
    "KeptFeatures",
    "Meter",
    "Moments",
    "Nearest",
    "NpzPictures",
    "PerClassMoments",
    "RandomFeatures",
    "ReferenceStatistics",
    "effect_of_n",
    "find_convention",
    "frechet_distance",
    "holds_pictures",
    "kernel_distance",
    "measure",
    "precision_recall",
    "read_statistics",
    "score_name",
    "write_statistics",
]
