"""Which samples a step sees, whoever computes it."""

import numpy as np
import pytest
import torch

from discli.training.batches import BatchPlan, Feed


class _Numbers:
    """Ten thousand samples that hold their own index."""

    labels = np.arange(10_000, dtype=np.int64) % 7

    def __len__(self) -> int:
        return 10_000

    def read(self, indices, flip):
        values = torch.from_numpy(indices.copy())
        return values if flip is None else torch.where(torch.from_numpy(flip), -values, values)


@pytest.mark.parametrize("world_size", [2, 4])
def test_processes_share_the_batch_that_one_would_see(world_size):
    alone = BatchPlan(1000, 16, seed=3)
    shares = [BatchPlan(1000, 16, seed=3, rank=rank, world_size=world_size) for rank in range(world_size)]
    for step in (0, 1, 61, 62, 63, 200):
        together = np.concatenate([share.indices(step) for share in shares])
        assert together.tolist() == alone.indices(step).tolist()
        assert torch.cat([share.slots for share in shares]).tolist() == alone.slots.tolist()


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_one_more_is_the_neighbour_in_the_global_batch(world_size):
    alone = BatchPlan(1000, 16, seed=3).indices(5).tolist()
    size = 16 // world_size
    for rank in range(world_size):
        plan = BatchPlan(1000, 16, seed=3, rank=rank, world_size=world_size, one_more=True)
        assert plan.slots.tolist() == [*range(rank * size, (rank + 1) * size), (rank + 1) * size % 16]
        assert plan.indices(5).tolist() == (alone + alone)[rank * size : (rank + 1) * size + 1]


def test_an_epoch_shows_every_sample_once_and_the_next_in_another_order():
    plan = BatchPlan(100, 30, seed=1)
    seen = np.concatenate([plan.indices(step) for step in range(20)])
    epochs = seen.reshape(6, 100)
    assert all(sorted(epoch.tolist()) == list(range(100)) for epoch in epochs)
    assert epochs[0].tolist() != epochs[1].tolist()


def test_a_batch_larger_than_the_data_runs_through_several_epochs():
    indices = BatchPlan(10, 25, seed=1).indices(0)
    counts = np.bincount(indices, minlength=10)
    assert sorted(counts.tolist()) == [2] * 5 + [3] * 5


def test_the_feed_gives_the_same_batches_from_wherever_it_starts():
    plan = BatchPlan(10_000, 8, seed=5)
    with Feed(_Numbers(), plan, 0, 12, flip=True, pin=False) as feed:
        whole = [next(feed) for _ in range(12)]
    with Feed(_Numbers(), plan, 7, 12, flip=True, pin=False) as feed:
        rest = [next(feed) for _ in range(5)]
    for expected, actual in zip(whole[7:], rest, strict=True):
        assert actual.step == expected.step
        assert torch.equal(actual.stored, expected.stored)
        assert torch.equal(actual.labels, expected.labels)
    signs = torch.cat([batch.stored for batch in whole]).sign()
    assert 0 < (signs < 0).sum() < len(signs)


def test_what_breaks_in_the_reader_is_raised_in_the_loop():
    class Broken(_Numbers):
        def read(self, indices, flip):
            raise OSError("the disk is gone")

    with (
        Feed(Broken(), BatchPlan(10, 2, seed=0), 0, 5, flip=False, pin=False) as feed,
        pytest.raises(OSError, match="disk is gone"),
    ):
        next(feed)


def test_closing_early_does_not_hang():
    with Feed(_Numbers(), BatchPlan(10_000, 8, seed=5), 0, 100_000, flip=False, pin=False) as feed:
        next(feed)


SHAPES = np.random.default_rng(0).choice(3, 1000, p=[0.6, 0.38, 0.02])  # the last has fewer than a batch


@pytest.mark.parametrize("world_size", [2, 4])
def test_a_batch_has_one_shape_whoever_shares_it(world_size):
    alone = BatchPlan(1000, 32, seed=3, shapes=SHAPES)
    shares = [BatchPlan(1000, 32, 3, rank, world_size, shapes=SHAPES) for rank in range(world_size)]
    for step in (150, 0, 31, 32, 64):
        whole = alone.indices(step)
        assert len(set(SHAPES[whole])) == 1
        assert np.concatenate([share.indices(step) for share in shares]).tolist() == whole.tolist()


def test_each_epoch_shows_every_image_of_every_shape_once_and_at_most_a_batch_more():
    plan, size = BatchPlan(1000, 32, seed=3, shapes=SHAPES), 32
    counts = np.bincount(SHAPES)
    steps = [int(sum(-(-epoch * counts // size))) for epoch in range(6)]
    seen, numbers = np.zeros(1000, int), []
    for epoch in range(5):
        for step in range(steps[epoch], steps[epoch + 1]):
            indices = plan.indices(step)
            numbers.append(SHAPES[indices[0]])
            np.add.at(seen, indices, 1)
        for number, count in enumerate(counts):
            times = seen[number == SHAPES]
            assert times.min() >= epoch + 1
            assert times.sum() - (epoch + 1) * count < size
    early = np.bincount(numbers[:20], minlength=3)
    assert early[0] > 5  # shapes take turns, in proportion
    assert early[1] > 3


def test_shapes_of_what_is_trained_on_alone():
    only = np.flatnonzero(np.arange(1000) % 3)
    plan = BatchPlan(len(only), 32, seed=3, only=only, shapes=SHAPES[only])
    for step in range(40):
        indices = plan.indices(step)
        assert np.isin(indices, only).all()
        assert len(set(SHAPES[indices])) == 1


def test_a_file_of_which_only_one_shape_is_there_is_read_as_one_of_one_shape():
    plain, shaped = BatchPlan(100, 30, seed=1), BatchPlan(100, 30, seed=1, shapes=np.full(100, 2))
    assert all(plain.indices(step).tolist() == shaped.indices(step).tolist() for step in range(9))
