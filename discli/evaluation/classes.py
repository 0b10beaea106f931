"""Classes on both sides: which one each sample was asked for, and a probe that knows the reference's."""

import hashlib
import json
from collections.abc import Sequence

import torch
from torch import Tensor

from discli.evaluation.extractor import Extractor
from discli.evaluation.images import ImageSet
from discli.evaluation.probe import VERSION, Probe, ProbeFit, read_probe, write_probe
from discli.evaluation.reference import about_statistics, cache_folder
from discli.runtime.console import stderr
from discli.runtime.errors import DiscliError
from discli.runtime.process_group import ProcessGroup


def have_classes(images: ImageSet, reference: ImageSet | None) -> bool:
    """Whether a class is known of every image on both sides."""
    return images.labels is not None and reference is not None and reference.labels is not None


def numbered(images: ImageSet, indices: Sequence[int], reference: ImageSet) -> Tensor:
    """(n,) int64: the class of each sample in the reference's numbers, -1 where the reference has no image of it.

    Found by name where both sides have names, and other ones: two of ImageNet's classes are cranes.
    """
    assert images.labels is not None
    assert reference.labels is not None
    labels = images.labels[list(indices)].long()
    if images.class_names and reference.class_names and list(images.class_names) != list(reference.class_names):
        numbers = {name: number for number, name in enumerate(reference.class_names)}
        labels = torch.tensor([numbers.get(name, -1) for name in class_names(images)])[labels]
    return labels.where(torch.isin(labels, reference.labels), -1)


def asked_for(images: ImageSet, indices: Sequence[int], reference: ImageSet) -> Tensor:
    """`numbered`. Raises DiscliError for a class that the reference lacks, and for a reference of one class."""
    assert images.labels is not None
    assert reference.labels is not None
    labels, theirs = numbered(images, indices, reference), class_names(reference)
    if len(reference.labels.unique()) < 2:
        raise DiscliError(
            f"--metrics recognised: {reference.path} has one class, and nothing can be mistaken for it.",
            "Give a reference of two classes or more, or leave it out.",
        )
    lacking = images.labels[list(indices)][labels < 0].unique().tolist()
    if lacking:
        name = class_names(images)[lacking[0]]
        raise DiscliError(
            f"--metrics recognised: {reference.path} has no class {name}, which samples of {images.path} are of.",
            f"Its classes: {', '.join(theirs[:8])}{', ...' if len(theirs) > 8 else ''}.",
        )
    return labels


def class_names(images: ImageSet) -> list[str]:
    """A name for each class, its number where there is none."""
    assert images.labels is not None
    count = max(len(images.class_names), int(images.labels.max()) + 1)
    return [images.class_names[i] if i < len(images.class_names) else str(i) for i in range(count)]


class ReferenceProbe:
    """The probe of a reference's classes: from the cache, or fitted while the reference passes.

    The cache lies beside the reference's statistics and is found by the content of images and classes.
    """

    def __init__(self, reference: ImageSet, extractor: Extractor, group: ProcessGroup, use_cache: bool) -> None:
        assert reference.labels is not None
        self._group = group
        self._path = None
        self._found: Probe | None = None
        self.fit: ProbeFit | None = None  # what has to see the reference
        if use_cache:
            labels = hashlib.sha256(reference.labels.long().numpy().tobytes()).hexdigest()
            about = group.once(lambda: about_statistics(reference, extractor))
            key = json.dumps(about | {"labels_sha256": labels, "probe": VERSION}, sort_keys=True)
            self._path = cache_folder() / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}-probe.npz"
            path = self._path
            self._found = group.once(lambda: read_probe(path))
        if self._found is None:
            self.fit = ProbeFit(reference.labels, len(class_names(reference)), extractor.dims["features"])

    def probe(self) -> Probe:
        """Once the reference has passed."""
        if self._found is None:
            assert self.fit is not None
            self._found = self._group.once(self.fit.fit)
            if self._path is not None and self._group.is_main:
                try:
                    write_probe(self._path, self._found)
                except OSError as error:
                    stderr.print(f"Not cached: {error}")
        return self._found
