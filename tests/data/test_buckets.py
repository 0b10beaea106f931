"""Images of several shapes in one file."""

import numpy as np
import pytest
import torch
from PIL import Image

from discli.data.describe import data_facts
from discli.data.device import OnDevice
from discli.data.encode import encode, merge
from discli.data.images import crop
from discli.data.preview import samples_beside_sources
from discli.data.shards import part_of
from discli.data.store import Store, open_store
from discli.data.writer import StoreWriter
from discli.recipe.size import Size, nearest_shape, parse_sizes
from discli.runtime.errors import DiscliError
from tests.data.files import VAE, contract, finish
from tests.data.makers import pixels, saved, write_zip
from tests.data.test_encode_latents import save_kl

SIZES = (Size(8, 8), Size(6, 10), Size(10, 6))
SHAPES = [(20, 20), (30, 18), (18, 30), (40, 23), (16, 19), (12, 40), (21, 20)]  # width, height
EXPECTED = [0, 1, 2, 1, 0, 2, 0]


@pytest.fixture
def source(tmp_path):
    files = {f"{'ab'[k % 2]}/{k}.png": saved(pixels(k, *SHAPES[k])) for k in range(len(SHAPES))}
    return write_zip(tmp_path / "images.zip", files)


def _in_order(store: Store) -> list[torch.Tensor]:
    return [store.read(np.array([index]))[0] for index in range(len(store))]


def test_each_image_is_cropped_to_the_nearest_shape(source, tmp_path):
    store = open_store(encode(source, SIZES, out=tmp_path / "a.h5", workers=0))
    numbers = [int(name[2]) for name in store.names]
    assert store.shapes.tolist() == [EXPECTED[k] for k in numbers]
    assert store.contract.sizes == SIZES
    assert store.contract.resolution == SIZES[0]
    for place, k in enumerate(numbers):
        expected = crop(Image.fromarray(pixels(k, *SHAPES[k])), SIZES[EXPECTED[k]], "adm").transpose(2, 0, 1)
        assert (store.read(np.array([place]))[0].numpy() == expected).all()
    facts = data_facts(store.path, None, 0, None, None)
    assert facts.record["shape_counts"] == [3, 2, 2]
    assert ("shapes", "3 of 8x8 px, 2 of 6x10 px, 2 of 10x6 px") in facts.rows


def test_what_was_enlarged_is_told_of_all_shapes(source, tmp_path, capsys):
    encode(source, (Size(30, 30), Size(18, 30)), out=tmp_path / "a.h5", workers=0)
    assert "30 or 18x30 px" in " ".join(capsys.readouterr().err.split())


def test_batches_of_one_shape_come_flipped_and_from_a_device_alike(source, tmp_path):
    store = open_store(encode(source, SIZES, out=tmp_path / "a.h5", workers=0))
    tall, flip = np.flatnonzero(store.shapes == 2), np.array([True, False])
    plain, flipped = store.read(tall), store.read(tall, flip)
    assert plain.shape == (2, 3, 10, 6)
    assert torch.equal(flipped[0], plain[0].flip(-1))
    assert torch.equal(flipped[1], plain[1])
    assert torch.equal(OnDevice(store, torch.device("cpu")).read(tall, flip), flipped)
    parts = list(store.in_turn(np.arange(7), 2))
    assert np.concatenate(parts).tolist() == list(range(7))
    assert all(len(part) <= 2 and len(set(store.shapes[part])) == 1 for part in parts)


def test_parts_make_the_file_that_one_run_writes(source, tmp_path):
    whole = open_store(encode(source, SIZES, out=tmp_path / "whole.h5", workers=0))
    for i in range(3):
        encode(source, SIZES, out=tmp_path / "a.h5", shard=(i, 3), workers=0)
    parts = open_store(tmp_path / "a.shard-*-of-3.h5")
    virtual = open_store(merge(tmp_path / "v.h5", tmp_path / "a.shard-*-of-3.h5", virtual=True))
    merged = open_store(merge(tmp_path / "a.h5"))
    assert merged.path.read_bytes() == whole.path.read_bytes()
    for store in (parts, virtual):
        assert store.contract == whole.contract
        assert store.shapes.tolist() == whole.shapes.tolist()
        assert all(map(torch.equal, _in_order(store), _in_order(whole)))


def test_latents_have_their_mirror_image_of_the_same_shape(source, tmp_path):
    vae = str(save_kl(tmp_path / "vae"))
    sizes = (Size(16, 16), Size(16, 24))
    together = open_store(encode(source, sizes, vae=vae, out=tmp_path / "a.h5", workers=0, device="cpu"))
    for number, size in enumerate(sizes):
        alone = open_store(encode(source, size, vae=vae, out=tmp_path / f"{number}.h5", workers=0, device="cpu"))
        of_it = np.flatnonzero(together.shapes == number)
        for flip in (np.zeros(len(of_it), bool), np.ones(len(of_it), bool)):
            assert torch.equal(together.read(of_it, flip), alone.read(of_it, flip))
    sheet, columns = samples_beside_sources(together, 4, device="cpu")
    assert columns == ["source", "sample", "mirrored"]
    assert sheet.width > 0


def test_a_file_that_was_interrupted_is_to_the_bit_the_one_that_was_not(tmp_path):
    promise = contract(codec=VAE, dtype="float16", resolution=8, shapes=[8, [6, 10]], num_samples=9)
    rng = np.random.default_rng(0)
    rows, shapes = rng.normal(size=(9, *promise.row_shape)).astype(np.float16), rng.integers(0, 2, 9).astype(np.uint8)
    for number, length in ((0, 64), (1, 60)):
        rows[shapes == number, length:] = 0

    def write(out, start, stop):
        with StoreWriter(out, promise, range(9), {}) as writer:
            assert writer.state.shapes == shapes[: writer.state.rows].tolist()
            for first in range(writer.state.end, stop, 3):
                part = slice(first, first + 3)
                writer.append(rows[part], first + 3, shapes=shapes[part])
            if stop == 9:
                finish(writer, promise)

    write(tmp_path / "whole.h5", 0, 9)
    write(tmp_path / "cut.h5", 0, 3)
    write(tmp_path / "cut.h5", 3, 6)
    write(tmp_path / "cut.h5", 6, 9)
    assert (tmp_path / "cut.h5").read_bytes() == (tmp_path / "whole.h5").read_bytes()
    assert open_store(tmp_path / "whole.h5").shapes.tolist() == shapes.tolist()


@pytest.mark.parametrize(("text", "said"), [("64,48x80,64", "twice"), ("64x", "not a size"), ("0", "not a size")])
def test_sizes_that_are_none_are_refused(text, said):
    with pytest.raises(DiscliError, match=said):
        parse_sizes(text, "--res")


def test_the_nearest_shape_is_that_of_the_ratio_whichever_way_it_is_turned():
    sizes = parse_sizes("64,48x96,96x48", "--res")
    assert [nearest_shape(sizes, *shape) for shape in ((10, 10), (139, 100), (143, 100), (100, 143), (1, 9))] == [
        0, 0, 1, 2, 2
    ]  # fmt: skip


def test_parts_with_other_shapes_do_not_belong_together(source, tmp_path):
    encode(source, SIZES, out=tmp_path / "a.h5", shard=(0, 2), workers=0)
    encode(source, SIZES[:2], out=tmp_path / "b.h5", shard=(1, 2), workers=0)
    part_of(tmp_path / "b.h5", (1, 2)).rename(part_of(tmp_path / "a.h5", (1, 2)))
    with pytest.raises(DiscliError, match="shapes"):
        open_store(tmp_path / "a.shard-*-of-2.h5")
