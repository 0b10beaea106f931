"""Nearest neighbours recognise real digits and find them varied; copies and one digit repeated are found out."""

import pytest
import torch
from torch import Tensor

from discli.cli.quickstart import unpack_digits
from discli.data.encode import encode
from discli.evaluation.images import open_images
from discli.evaluation.neighbours import Real, _vote, look_at_samples
from discli.runtime.errors import DiscliError

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("real") / "digits"
    unpack_digits(folder)
    return folder


@pytest.fixture(scope="module")
def digits(folder) -> tuple[Tensor, Tensor]:
    """Half of the package's digits, (900, 192) and (900,), and the other half's classes."""
    images = open_images(folder, CPU, with_labels=True)
    assert images.labels is not None
    return torch.cat(list(images.batches(range(images.n), 256))).flatten(1), images.labels


@pytest.fixture(scope="module")
def halves(digits):
    pixels, classes = digits
    return (pixels[::2], classes[::2]), (pixels[1::2], classes[1::2])


def test_real_digits_that_it_has_not_seen_are_recognised_varied_and_no_copies(halves):
    (seen, seen_classes), (new, new_classes) = halves
    look = Real(seen, seen_classes).look_at(new, new_classes)
    assert look.n == len(new)
    assert look.recognised > 0.97
    assert look.variety == pytest.approx(1, abs=0.03)
    assert look.memorised < 0.05


def test_copies_are_memorised_with_a_grey_level_of_noise_too(halves):
    (seen, classes), _ = halves
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(-1, 2, seen.shape, generator=generator)
    for copies in (seen, (seen.int() + noise).clamp(0, 255).to(torch.uint8)):
        look = Real(seen, classes).look_at(copies, classes)
        assert look.memorised == 1
        assert look.recognised > 0.97


def test_digits_of_other_classes_than_asked_for_are_not_recognised(halves):
    (seen, classes), (new, new_classes) = halves
    assert Real(seen, classes).look_at(new, (new_classes + 1) % 10).recognised < 0.05
    chance = torch.randint(0, 10, new_classes.shape, generator=torch.Generator().manual_seed(0))
    assert Real(seen, classes).look_at(new, chance).recognised == pytest.approx(0.1, abs=0.04)


def test_the_same_digit_again_and_again_has_no_variety(halves):
    (seen, classes), (new, new_classes) = halves
    means = torch.stack([new[new_classes == label].float().mean(dim=0) for label in range(10)])
    asked = torch.arange(10).repeat(5)
    look = Real(seen, classes).look_at(means[asked], asked)
    assert look.variety == pytest.approx(0, abs=1e-3)
    assert look.recognised > 0.9


def test_half_of_the_way_to_the_mean_has_half_of_the_variety(halves):
    (seen, classes), (new, new_classes) = halves
    means = torch.stack([new[new_classes == label].float().mean(dim=0) for label in range(10)])
    between = (new.float() + means[new_classes]) / 2
    assert Real(seen, classes).look_at(between, new_classes).variety == pytest.approx(0.5, abs=0.03)


def test_noise_is_neither_recognised_nor_memorised(halves):
    (seen, classes), _ = halves
    noise = torch.randint(0, 256, (100, 192), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    look = Real(seen, classes).look_at(noise, torch.arange(10).repeat(10))
    assert look.recognised < 0.3
    assert look.memorised == 0


def test_without_two_images_of_a_class_there_is_no_variety(halves):
    (seen, classes), (new, _) = halves
    assert Real(seen, classes).look_at(new[:1], torch.tensor([0])).variety is None


def test_a_vote_takes_the_commonest_and_of_equals_the_nearest():
    votes = torch.tensor([[1, 2, 2], [2, 1, 2], [3, 1, 2], [1, 1, 0], [5, 5, 5]])
    assert _vote(votes).tolist() == [2, 2, 3, 1, 5]


def test_image_sets_are_compared_and_a_tenth_is_held_out(folder, digits_file):
    result = look_at_samples(open_images(digits_file, CPU), open_images(folder, CPU, with_labels=True))
    assert result.format == 1
    assert result.samples.n == 200
    assert result.samples.memorised == 1  # the 200 are among the 1,797
    assert 170 <= result.held_out.n <= 180
    assert result.held_out.recognised > 0.95
    assert result.held_out.memorised < 0.05
    assert type(result).model_validate_json(result.model_dump_json()) == result


def test_what_cannot_be_compared_is_refused(folder, digits_file, tmp_path):
    real = open_images(digits_file, CPU)
    with pytest.raises(DiscliError, match="no classes"):
        look_at_samples(open_images(folder, CPU), real)
    few = tmp_path / "few"
    for path in folder.glob("*/000[0-8].png"):
        (few / path.parent.name).mkdir(parents=True, exist_ok=True)
        (few / path.parent.name / path.name).write_bytes(path.read_bytes())
    with pytest.raises(DiscliError, match="no class of"):
        look_at_samples(real, open_images(few, CPU, with_labels=True))


def test_images_of_another_size_are_refused(digits_file, folder, tmp_path):
    larger = encode(folder, 16, codec="rgb", out=tmp_path / "larger.h5", workers=0)
    with pytest.raises(DiscliError, match="different sizes"):
        look_at_samples(open_images(larger, CPU), open_images(digits_file, CPU))
