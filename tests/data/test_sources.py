"""The same images are listed alike, whatever they come packed in."""

import errno
import gzip
import json
import os
import pickle
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from discli.data.images import ImageError, decode
from discli.data.sources import open_source
from discli.data.sources.parquet import Parquet
from discli.runtime.errors import DiscliError
from tests.data.makers import class_files, write_folder, write_parquet, write_tar, write_zip

FILES = class_files()
CLASSES = ("ant", "bee")


def packed(kind: str, tmp_path, files=FILES):
    if kind == "folder":
        return write_folder(tmp_path / "images", files)
    if kind == "tar":
        return write_tar(tmp_path / "images.tar", files)
    return write_zip(tmp_path / "images.zip", files, zipfile.ZIP_DEFLATED if kind == "deflated" else zipfile.ZIP_STORED)


def members_of(name: str) -> dict[str, bytes]:
    return {path.split("/")[1]: data for path, data in FILES.items() if path.startswith(name)}


@pytest.mark.parametrize("kind", ["folder", "zip", "deflated", "tar"])
def test_folder_zip_and_tar_list_the_same(kind, tmp_path):
    backwards = dict(reversed(FILES.items()))
    source = open_source(packed(kind, tmp_path, backwards))
    assert source.names == list(FILES)
    assert source.class_names == CLASSES
    assert source.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert [source.read(i) for i in range(len(source))] == list(FILES.values())
    assert source.sha256 == open_source(packed("folder", tmp_path)).sha256


@pytest.mark.parametrize("kind", ["folder", "zip", "deflated", "tar"])
def test_readers_travel_to_other_processes(kind, tmp_path):
    source = open_source(packed(kind, tmp_path))
    source.read(0)
    reader, locator = pickle.loads(pickle.dumps((source.reader, source.locators[4])))
    assert reader.read(locator) == FILES["bee/1.png"]


def test_many_open_tars_do_not_exhaust_file_handles(tmp_path):
    for shard in range(40):
        write_tar(tmp_path / f"{shard:05d}.tar", {f"{shard}.png": FILES["ant/0.png"], f"{shard}.cls": b"0"})
    source = open_source(tmp_path)
    assert all(source.read(i) == FILES["ant/0.png"] for i in [*range(40), *range(40)])
    assert len(source.reader._files._open) <= 16


def test_a_folder_around_everything_is_looked_through(tmp_path):
    source = open_source(
        write_zip(tmp_path / "a.zip", {f"imagenet/train/{name}": data for name, data in FILES.items()})
    )
    assert source.class_names == CLASSES
    assert source.names[0] == "imagenet/train/ant/0.png"


def test_classes_are_numbered_in_sorted_order(tmp_path):
    files = {f"{wnid}/x.JPEG": FILES["ant/0.png"] for wnid in ("n02085620", "n01440764", "n13133613")}
    source = open_source(write_folder(tmp_path / "in", files))
    assert source.class_names == ("n01440764", "n02085620", "n13133613")
    assert source.labels.tolist() == [0, 1, 2]


def test_a_flat_folder_is_unlabelled(tmp_path):
    source = open_source(write_folder(tmp_path / "flat", {"a.png": b"1", "b.JPG": b"2", "notes.txt": b"3"}))
    assert source.labels is None
    assert source.class_names == ()
    assert source.names == ["a.png", "b.JPG"]


def test_what_finder_and_its_like_leave_behind_is_no_image(tmp_path):
    litter = {"__MACOSX/ant/._0.png": b"x", "ant/._0.png": b"x", ".thumbs/0.png": b"x"}
    assert open_source(write_zip(tmp_path / "a.zip", {**FILES, **litter})).names == list(FILES)


def test_what_a_telephone_writes_is_a_image_though_not_one_that_can_be_read(tmp_path):
    heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100)
    source = open_source(write_folder(tmp_path / "photos", {"IMG_0001.HEIC": heic, "notes.txt": b"x"}))
    assert source.names == ["IMG_0001.HEIC"]
    with pytest.raises(ImageError, match="not an image in any known format"):
        decode(source.read(0))


def test_file_names_that_are_no_utf8_are_listed_and_read(tmp_path):
    folder = write_folder(tmp_path / "odd", FILES)
    (folder / "ant" / b"caf\xe9.png".decode("utf-8", "surrogateescape")).write_bytes(b"odd")
    source = open_source(folder)
    odd = next(name for name in source.names if "caf" in name)
    assert odd.encode("utf-8")
    assert source.read(source.names.index(odd)) == b"odd"


def test_linked_folders_are_followed_but_not_in_circles(tmp_path):
    folder = write_folder(tmp_path / "real", FILES)
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "cat").symlink_to(folder / "ant")
    (tmp_path / "linked" / "dog").symlink_to(folder / "bee")
    (folder / "ant" / "loop").symlink_to(tmp_path / "linked")
    assert open_source(tmp_path / "linked").class_names == ("cat", "dog")


def test_tars_inside_a_tar_are_classes(tmp_path):
    inner = {f"{name}.tar": write_tar(tmp_path / "x.tar", members_of(name)).read_bytes() for name in CLASSES}
    source = open_source(write_tar(tmp_path / "ILSVRC.tar", inner))
    assert source.class_names == CLASSES
    assert [source.read(i) for i in range(6)] == list(FILES.values())


def test_a_folder_of_class_tars_is_classes(tmp_path):
    for name in CLASSES:
        write_tar(tmp_path / f"{name}.tar", members_of(name))
    source = open_source(tmp_path)
    assert source.class_names == CLASSES
    assert [source.read(i) for i in range(6)] == list(FILES.values())


@pytest.fixture
def shards(tmp_path):
    images = list(FILES.values())
    for shard in range(3):
        files = {}
        for k in (2 * shard + 1, 2 * shard):
            files |= {f"{k:04d}.png": images[k], f"{k:04d}.cls": str(k % 2).encode(), f"{k:04d}.txt": b"caption"}
        write_tar(tmp_path / f"train-{shard:06d}.tar", files)
    return tmp_path


@pytest.mark.parametrize("pattern", [".", "train-{000000..000002}.tar", "train-*.tar"])
def test_webdataset_shards_keep_their_order_and_labels(shards, pattern):
    source = open_source(shards / pattern)
    assert source.kind == "webdataset"
    assert source.names[:3] == ["train-000000/0001.png", "train-000000/0000.png", "train-000001/0003.png"]
    assert source.labels.tolist() == [1, 0, 1, 0, 1, 0]
    assert source.class_names == ("0", "1")
    images = list(FILES.values())
    assert [source.read(i) for i in range(6)] == [images[k] for k in (1, 0, 3, 2, 5, 4)]


def test_a_shard_missing_from_a_range_is_named(shards):
    with pytest.raises(DiscliError, match=r"train-000003\.tar does not exist, but"):
        open_source(shards / "train-{000000..000003}.tar")


def test_shards_of_several_splits_are_not_mixed(shards):
    write_tar(shards / "val-000000.tar", {"1.png": b"x", "1.cls": b"0"})
    with pytest.raises(DiscliError, match="splits train, val") as refused:
        open_source(shards)
    assert "train*.tar" in refused.value.hint


def test_shards_without_labels_are_not_taken_for_classes(tmp_path):
    for shard in range(2):
        write_tar(tmp_path / f"{shard:05d}.tar", {f"{k}.png": b"x" for k in range(3)})
    assert open_source(tmp_path).class_names == ()


def test_hugging_face_parquet_has_its_class_names(tmp_path):
    pytest.importorskip("pyarrow")
    names = list(FILES)
    for shard in range(2):
        some = {name: FILES[name] for name in names[3 * shard : 3 * shard + 3]}
        write_parquet(
            tmp_path / f"train-0000{shard}-of-00002.parquet", some, [shard, 1 - shard, shard], ["ant", "bee"], 2
        )
    source = open_source(tmp_path)
    assert source.class_names == ("ant", "bee")
    assert source.labels.tolist() == [0, 1, 0, 1, 0, 1]
    assert [source.read(i) for i in (5, 0, 1, 2, 3, 4)] == [list(FILES.values())[i] for i in (5, 0, 1, 2, 3, 4)]
    assert pickle.loads(pickle.dumps(source.reader)).read(source.locators[3]) == FILES[names[3]]


def test_parquet_without_an_image_column_says_what_it_has(tmp_path):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table({"text": ["a"]}), tmp_path / "a.parquet")
    with pytest.raises(DiscliError, match="no image column, only text"):
        open_source(tmp_path / "a.parquet")


def test_edm_dataset_json_gives_the_labels(tmp_path):
    files = {f"00000/img{k}.png": data for k, data in enumerate(FILES.values())}
    labels = {"labels": [[name, 4 - k % 2] for k, name in enumerate(files)]}
    source = open_source(write_zip(tmp_path / "edm.zip", {**files, "dataset.json": json.dumps(labels).encode()}))
    assert source.labels.tolist() == [4, 3, 4, 3, 4, 3]
    assert len(source.class_names) == 5


@pytest.mark.parametrize("kind", ["folder", "zip", "tar"])
@pytest.mark.parametrize(
    "content",
    [
        b'{"labels": [["caf\xe9.png", 0]]}',
        b"[" * 100_000,
        b'{"labels": ' * 100_000,
        b'{"labels": [["a", 0]], "classes": 7}',
        b'{"labels": [["ant/0.png", [0, 1]]]}',
        b"1" * 5_000,
        b"{",
    ],
)
def test_a_dataset_json_that_cannot_be_understood_is_a_mistake_and_labels_none_passes_it_over(kind, content, tmp_path):
    path = packed(kind, tmp_path, FILES | {"dataset.json": content})
    with pytest.raises(DiscliError, match=r"Labels: .*dataset\.json"):
        open_source(path)
    assert len(open_source(path, "none")) == len(FILES)


def test_a_dataset_json_with_a_mark_that_it_is_utf_8_is_read(tmp_path):
    content = b"\xef\xbb\xbf" + json.dumps({name: k for k, name in enumerate(FILES)}).encode()
    source = open_source(packed("folder", tmp_path, FILES | {"dataset.json": content}))
    assert source.labels.tolist() == [0, 1, 2, 3, 4, 5]


def test_a_dataset_json_that_is_encrypted_is_a_mistake(tmp_path):
    path = packed("zip", tmp_path, FILES | {"dataset.json": b"{}"})
    raw = bytearray(path.read_bytes())
    raw[raw.rindex(b"PK\x01\x02") + 8] |= 1  # the last member's entry in the directory
    raw[raw.rindex(b"PK\x03\x04") + 6] |= 1
    path.write_bytes(raw)
    with pytest.raises(DiscliError, match=r"dataset\.json"):
        open_source(path)


@pytest.mark.parametrize("deep", [b"[" * 100_000, b'{"label": ' * 100_000])
def test_a_webdataset_sample_with_json_too_deep_has_no_label_of_it(deep, tmp_path):
    for shard in range(2):
        write_tar(tmp_path / f"{shard:05d}.tar", {f"{shard}.png": FILES["ant/0.png"], f"{shard}.json": deep})
    assert open_source(tmp_path).labels is None


def test_the_size_of_a_parquet_file_is_asked_once_not_for_every_row(tmp_path, monkeypatch):
    pytest.importorskip("pyarrow")
    path = write_parquet(tmp_path / "a.parquet", FILES, [0, 0, 0, 1, 1, 1], ["ant", "bee"], 2)
    asked, stat = [], Path.stat
    monkeypatch.setattr(Path, "stat", lambda self, **how: asked.append(self) or stat(self, **how))
    listing = Parquet([path], path)
    listing.list_images()
    assert [entry.size for entry in listing.entries] == [stat(path).st_size] * len(FILES)
    assert asked.count(path) == 1


@pytest.mark.parametrize(
    "described", [b"{", b"[" * 100_000, b"[]", b'{"info": 3}', b'{"info": {"features": {"label": 1}}}']
)
def test_parquet_with_a_description_that_is_none_is_read_without_it(described, tmp_path):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = pyarrow.table({"image": list(FILES.values()), "label": [0, 0, 0, 1, 1, 1]})
    parquet.write_table(table.replace_schema_metadata({b"huggingface": described}), tmp_path / "a.parquet")
    assert open_source(tmp_path / "a.parquet").labels.tolist() == [0, 0, 0, 1, 1, 1]


def test_labels_none_ignores_folders(tmp_path):
    assert open_source(packed("zip", tmp_path), "none").labels is None


def test_paths_that_lead_outside_are_left_out_and_named(tmp_path):
    outside = {"../../evil.png": b"x", "/etc/evil.png": b"x", "C:\\evil.png": b"x", "ant\\..\\..\\evil.png": b"x"}
    source = open_source(write_zip(tmp_path / "a.zip", {**FILES, **outside}))
    assert source.names == list(FILES)
    assert {name for name, _ in source.left_out} == set(outside)
    assert all("outside" in why for _, why in source.left_out)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_of_duplicate_names_the_last_is_kept_and_the_others_are_named(tmp_path):
    path = packed("zip", tmp_path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("ant/0.png", b"newer")
    source = open_source(path)
    assert source.names == list(FILES)
    assert source.read(0) == b"newer"
    assert [name for name, _ in source.left_out] == ["ant/0.png"]


def test_an_archive_damaged_inside_loses_only_those_images(tmp_path):
    path = packed("zip", tmp_path)
    data = bytearray(path.read_bytes())
    at = data.index(FILES["ant/1.png"])
    data[at + 40] ^= 0xFF
    path.write_bytes(data)
    source = open_source(path)
    assert source.read(0) == FILES["ant/0.png"]
    with pytest.raises(ImageError, match="checksum"):
        source.read(1)


def test_a_zip_member_that_swells_beyond_its_size_is_refused(tmp_path):
    path = write_zip(tmp_path / "a.zip", {"a.png": bytes(100_000)}, zipfile.ZIP_DEFLATED)
    source = open_source(path)
    offset, compressed, _, *rest = source.locators[0]
    with pytest.raises(ImageError, match="cut short"):
        source.reader.read((offset, compressed, 500, *rest))


def test_an_encrypted_member_is_unreadable_not_fatal(tmp_path):
    path = write_zip(tmp_path / "a.zip", FILES)
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1  # the flag of the first directory entry
    path.write_bytes(data)
    source = open_source(path)
    with pytest.raises(ImageError, match="not supported"):
        source.read(0)
    assert source.read(1) == FILES["ant/1.png"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: p / "absent", "does not exist"),
        (lambda p: write_folder(p / "empty", {"notes.txt": b"x"}), "holds no images"),
        (lambda p: write_zip(p / "empty.zip", {"notes.txt": b"x"}), "holds no images"),
        (lambda p: write_folder(p, {"a.rar": b"x"}) / "a.rar", "no archive of images"),
        (lambda p: write_folder(p, {"a.zip": b"no zip"}) / "a.zip", "no zip file"),
        (lambda p: write_folder(p, {"a.tar": b"no tar" * 200}) / "a.tar", "plain tar"),
        (lambda p: write_folder(p, {"a.tar.gz": gzip.compress(b"x" * 999)}) / "a.tar.gz", "plain tar"),
        (lambda p: write_folder(p / "mixed", {"a.png": b"x", "ant/b.png": b"x"}), "1 images beside 1 folders"),
        (lambda p: write_folder(p / "s", {"train/a/b.png": b"x", "val/a/b.png": b"x"}), "splits train, val"),
    ],
)
def test_sources_that_cannot_be_used_say_what_to_do(make, message, tmp_path):
    with pytest.raises(DiscliError, match=message) as refused:
        open_source(make(tmp_path))
    assert refused.value.hint


def test_a_half_downloaded_tar_is_refused(tmp_path):
    path = packed("tar", tmp_path)
    path.write_bytes(path.read_bytes()[:1500])
    with pytest.raises(DiscliError, match=r"images\.tar cannot be read"):
        open_source(path)


def test_a_tar_cut_between_two_members_is_noticed(tmp_path):
    whole = packed("tar", tmp_path)
    assert open_source(whole).left_out == ()
    with tarfile.open(whole) as archive:
        end = archive.getmembers()[4].offset
    (tmp_path / "cut.tar").write_bytes(whole.read_bytes()[:end])
    source = open_source(tmp_path / "cut.tar")
    assert len(source) == 4
    assert source.left_out == (("cut.tar", "no end mark: images may be missing, compare its size"),)


def test_an_archive_that_vanishes_stops_the_reading(tmp_path):
    source = open_source(packed("tar", tmp_path))
    source.path.unlink()
    with pytest.raises(DiscliError, match=r"Cannot read .*images\.tar: No such file"):
        source.read(0)


def test_a_folder_that_vanishes_stops_the_reading_and_an_image_that_does_is_skipped(tmp_path):
    source = open_source(packed("folder", tmp_path))
    (source.path / source.names[0]).unlink()
    with pytest.raises(ImageError):
        source.read(0)
    source.path.rename(tmp_path / "elsewhere")  # as where its disk is no longer mounted
    with pytest.raises(DiscliError, match=r"Cannot read .*: No such file"):
        source.read(1)


def test_a_disk_that_fails_stops_the_reading(tmp_path, monkeypatch):
    source = open_source(packed("folder", tmp_path))

    def fail(*_about):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(Path, "open", fail)
    with pytest.raises(DiscliError, match="Input/output error"):
        source.read(0)


def test_the_hash_changes_with_names_sizes_and_labels(tmp_path):
    hashes = {open_source(write_folder(tmp_path / "0", FILES)).sha256}
    hashes.add(open_source(write_folder(tmp_path / "1", {**FILES, "ant/9.png": b"x"})).sha256)
    hashes.add(open_source(write_folder(tmp_path / "2", {**FILES, "ant/0.png": b"x"})).sha256)
    hashes.add(open_source(tmp_path / "0", "none").sha256)
    assert len(hashes) == 4


def test_real_archives(shared):
    cifar = open_source(shared / "data" / "cifar10-train.zip")
    assert len(cifar) == 50_000
    assert cifar.class_names[:2] == ("airplane", "automobile")
    assert np.bincount(cifar.labels).tolist() == [5000] * 10
    imagenet = open_source(shared / "data" / "imagenet-sample.zip")
    assert len(imagenet) == len(imagenet.class_names) == 400
