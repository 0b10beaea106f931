"""The verb: from images to a file that can be trained on, whatever happens in between."""

import os
import random
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from discli.data.encode import encode, merge
from discli.data.images import crop
from discli.data.resume_log import resume_log_of
from discli.data.shards import part_of
from discli.data.store import open_store
from discli.data.writer import partial_of, skipped_of
from discli.recipe.size import Size
from discli.runtime.console import stderr
from discli.runtime.errors import DiscliError
from tests import warm
from tests.data.makers import class_files, pixels, saved, write_folder, write_tar, write_zip

FILES = class_files(("ant", "bee", "cat"), each=4)


@pytest.fixture
def said(capsys):
    """What was printed on stderr since the last question."""
    return lambda: capsys.readouterr().err


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "images", FILES)


def run(source: Path, out: Path, resolution: int = 8, **options) -> Path:
    return encode(source, resolution, out=out, workers=options.pop("workers", 0), **options)


def test_pixels_labels_names_and_contract_are_in_the_file(folder, tmp_path):
    store = open_store(run(folder, tmp_path / "a.h5"))
    seeds = [10 * c + k for c in range(3) for k in range(4)]
    expected = np.stack([crop(Image.fromarray(pixels(seed)), Size(8, 8), "adm") for seed in seeds])
    assert (store.read(np.arange(12)).numpy() == expected.transpose(0, 3, 1, 2)).all()
    assert store.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert store.names == list(FILES)
    assert store.contract.class_names == ("ant", "bee", "cat")
    assert store.contract.codec.name == "rgb"
    assert store.contract.source == str(folder)
    seen = expected / 127.5 - 1
    np.testing.assert_allclose(store.contract.channel_mean, seen.mean((0, 1, 2)), atol=1e-5)
    np.testing.assert_allclose(store.contract.channel_std, seen.std((0, 1, 2)), atol=1e-5)


def test_the_same_images_make_the_same_file_however_packed_and_by_whomever_decoded(folder, tmp_path):
    run(folder, tmp_path / "a.h5")
    run(write_zip(tmp_path / "images.zip", FILES), tmp_path / "b.h5", workers=2, batch_size=5)
    run(write_tar(tmp_path / "images.tar", FILES), tmp_path / "c.h5", batch_size=1)
    a, b, c = (open_store(tmp_path / name) for name in ("a.h5", "b.h5", "c.h5"))
    assert (a.rows == b.rows).all()
    assert (a.rows == c.rows).all()
    assert a.contract.model_copy(update={"source": ""}) == b.contract.model_copy(update={"source": ""})


def test_the_default_name_and_codec_say_themselves(folder, tmp_path, monkeypatch, said):
    monkeypatch.chdir(tmp_path)
    assert encode(folder, 8, workers=0) == Path("images-8-rgb.h5")
    assert "codec rgb, since 8 px is at most 64" in said()


def test_classes_are_shown_with_their_index(folder, tmp_path, said):
    run(folder, tmp_path / "a.h5")
    assert "3 classes: 0 ant, 1 bee, 2 cat" in said()


def test_a_finished_file_is_left_as_it_is(folder, tmp_path, said):
    out = run(folder, tmp_path / "a.h5")
    before = out.stat()
    resume_log_of(out).touch()  # as a kill right after the renaming leaves it
    assert run(folder, out) == out
    assert out.stat().st_mtime_ns == before.st_mtime_ns
    assert not resume_log_of(out).exists()
    assert "finished already: 12 images" in said()


def test_other_flags_for_a_finished_file_are_refused(folder, tmp_path):
    out = run(folder, tmp_path / "a.h5")
    with pytest.raises(DiscliError, match="crop adm, not resize"):
        run(folder, out, crop="resize")


def test_labels_from_a_file(tmp_path):
    flat = write_folder(tmp_path / "flat", {f"{k}.png": saved(pixels(k)) for k in range(3)})
    (tmp_path / "labels.csv").write_text("0.png,dog\n1.png,cat\n2.png,dog\n")
    store = open_store(run(flat, tmp_path / "a.h5", labels=tmp_path / "labels.csv"))
    assert store.labels.tolist() == [1, 0, 1]
    assert store.contract.class_names == ("cat", "dog")


BAD = {
    "ant/truncated.jpg": saved(pixels(1, 64, 64), "JPEG")[:-80],
    "ant/zero.png": b"",
    "bee/text.png": b"not an image",
    "../outside.png": saved(pixels(0)),
}


def test_bad_images_are_skipped_counted_and_listed(tmp_path, said):
    store = open_store(run(write_zip(tmp_path / "a.zip", {**FILES, **BAD}), tmp_path / "a.h5"))
    assert store.names == list(FILES)
    assert store.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert store.contract.num_skipped == 4
    listed = dict(line.split("\t") for line in skipped_of(tmp_path / "a.h5").read_text().splitlines())
    assert set(listed) == set(BAD)
    assert listed["ant/zero.png"] == "empty file (0 bytes)"
    assert f"4 skipped: see {skipped_of(tmp_path / 'a.h5')}" in said()


def test_nothing_but_bad_images_is_an_error_that_names_one(tmp_path):
    files = {name: data for name, data in BAD.items() if "outside" not in name}
    with pytest.raises(DiscliError, match=r"None of the 3 images could be used, .*text\.png for one: not an image"):
        run(write_folder(tmp_path / "bad", files), tmp_path / "a.h5")
    assert [path.name for path in tmp_path.iterdir()] == ["bad"]


def test_small_images_are_enlarged_with_a_count_or_skipped(folder, tmp_path, said):
    write_folder(folder, {"ant/tiny.png": saved(pixels(3, 30, 5))})
    assert open_store(run(folder, tmp_path / "a.h5")).contract.num_upscaled == 1
    assert "1 were smaller than 8 px and enlarged" in said()
    store = open_store(run(folder, tmp_path / "b.h5", too_small="skip"))
    assert (len(store), store.contract.num_skipped, store.contract.small) == (12, 1, "skip")


def test_a_second_run_on_the_same_output_is_refused(folder, tmp_path):
    with (tmp_path / "a.h5.journal").open("a+b") as held:
        import fcntl

        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(DiscliError, match="Another run is writing"):
            run(folder, tmp_path / "a.h5")


def test_a_folder_is_no_output(folder, tmp_path):
    with pytest.raises(DiscliError, match=r"Cannot write .*: Is a directory"):
        run(folder, tmp_path / "images")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resolution": 0}, "--res 0"),
        ({"codec": "rgb", "vae": "x"}, "--vae is given"),
        ({"shard": (2, 2)}, "--shard 2/2 does not exist"),
        ({"crop": "celeba"}, "178 x 218"),
    ],
)
def test_flags_that_cannot_be_are_refused(folder, tmp_path, options, message):
    with pytest.raises(DiscliError, match=message) as refused:
        run(folder, tmp_path / "a.h5", **options)
    assert refused.value.hint
    assert not partial_of(tmp_path / "a.h5").exists()


def test_ctrl_c_keeps_what_is_written(folder, tmp_path, monkeypatch, said):
    import discli.data.encoding

    real = discli.data.encoding.decode_batches

    def interrupted(*arguments):
        for count, batch in enumerate(real(*arguments)):
            if count == 3:
                raise KeyboardInterrupt
            yield batch

    monkeypatch.setattr(discli.data.encoding, "decode_batches", interrupted)
    with pytest.raises(DiscliError, match="Stopped") as stopped:
        run(folder, tmp_path / "a.h5", batch_size=2)
    assert stopped.value.status == 130
    monkeypatch.undo()
    run(folder, tmp_path / "a.h5", batch_size=2)
    assert "Resuming after 4 of 12" in said()
    assert (open_store(tmp_path / "a.h5").rows == open_store(run(folder, tmp_path / "b.h5")).rows).all()


SLOW_RUN = """
import sys, time
from pathlib import Path
import discli.data.writer as writer
from discli.data.encode import encode
if __name__ == "__main__":
    writer._SECONDS_BETWEEN_COMMITS = 0.0
    plain = writer.StoreWriter._write
    def in_pieces(self, rows):  # so that a kill lands inside a row
        flat = rows.reshape(-1)
        for piece in (flat[: len(flat) // 3], flat[len(flat) // 3 :]):
            plain(self, piece)
            time.sleep(0.003)
    writer.StoreWriter._write = in_pieces
    encode(Path(sys.argv[1]), 16, out=Path(sys.argv[2]), batch_size=3, workers=0)
"""


@pytest.mark.slow
def test_killed_with_sigkill_again_and_again_the_file_is_the_same(tmp_path, said):
    files = {f"{k:03d}.png": saved(pixels(k)) for k in range(150)} | {"077.png": b"bad"}
    source = write_zip(tmp_path / "a.zip", files)
    partial, delays = partial_of(tmp_path / "killed.h5"), random.Random(0)
    grown = []
    for _ in range(4):
        before = partial.stat().st_size if partial.exists() else 0
        process = warm.Process("-c", SLOW_RUN, source, tmp_path / "killed.h5")
        while process.poll() is None and (not partial.exists() or partial.stat().st_size <= max(before, 20_000)):
            time.sleep(0.001)
        time.sleep(delays.uniform(0.0, 0.05))
        process.send_signal(signal.SIGKILL)
        assert process.wait().returncode == -signal.SIGKILL
        grown.append(partial.stat().st_size)
    assert grown == sorted(grown)
    assert not (tmp_path / "killed.h5").exists()
    with pytest.raises(DiscliError, match="unfinished"):
        open_store(tmp_path / "killed.h5")
    run(source, tmp_path / "killed.h5", 16, batch_size=3)
    assert "Resuming after" in said()
    run(source, tmp_path / "whole.h5", 16, batch_size=3)
    assert (tmp_path / "killed.h5").read_bytes() == (tmp_path / "whole.h5").read_bytes()
    assert skipped_of(tmp_path / "killed.h5").read_bytes() == skipped_of(tmp_path / "whole.h5").read_bytes()


def test_a_part_may_hold_nothing(tmp_path):
    source = write_zip(tmp_path / "a.zip", {"0.png": b"bad", "1.png": b"", "2.png": saved(pixels(2))})
    for i in range(3):
        run(source, tmp_path / "a.h5", shard=(i, 3))
    merge(tmp_path / "a.h5")
    store = open_store(tmp_path / "a.h5")
    assert (store.names, store.contract.num_skipped) == (["2.png"], 2)


def test_file_names_of_several_lines_stay_one_line(tmp_path):
    source = write_folder(tmp_path / "odd", {"a\nb\tc.png": b"bad", "d.png": saved(pixels(0))})
    run(source, tmp_path / "a.h5")
    assert skipped_of(tmp_path / "a.h5").read_text() == "a\\x0ab\\x09c.png\tnot an image in any known format\n"


def test_flags_may_change_while_nothing_is_written(folder, tmp_path, monkeypatch):
    import discli.data.encoding

    def interrupted(*_):
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(discli.data.encoding, "decode_batches", interrupted)
    with pytest.raises(DiscliError, match="Stopped"):
        run(folder, tmp_path / "a.h5")
    monkeypatch.undo()
    assert open_store(run(folder, tmp_path / "a.h5", crop="resize")).contract.crop == "resize"


def test_shards_merge_into_what_one_run_writes(tmp_path):
    source = write_zip(tmp_path / "a.zip", {**FILES, **BAD})
    run(source, tmp_path / "whole.h5")
    for i in (2, 0, 1):
        run(source, tmp_path / "parts.h5", shard=(i, 3))
    with pytest.raises(DiscliError, match="part 1 of 3"):
        open_store(part_of(tmp_path / "parts.h5", (1, 3)))
    merge(tmp_path / "parts.h5")
    assert (tmp_path / "parts.h5").read_bytes() == (tmp_path / "whole.h5").read_bytes()
    with pytest.raises(DiscliError, match="there already"):
        merge(tmp_path / "parts.h5")


@pytest.mark.slow
def test_under_torchrun_ranks_are_shards_and_the_last_one_merges(folder, tmp_path, monkeypatch, said):
    out = tmp_path / "a.h5"
    command = ["-m", "discli", "encode", folder, "--res", 8, "--out", out, "--workers", 0]
    ranks = [warm.Process(*command, env=os.environ | {"WORLD_SIZE": "2", "RANK": str(rank)}) for rank in range(2)]
    assert [rank.wait().returncode for rank in ranks] == [0, 0]
    assert out.read_bytes() == run(folder, tmp_path / "b.h5").read_bytes()
    for part in tmp_path.glob("a.shard-*"):
        part.unlink()
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    run(folder, out)
    assert not stderr.quiet
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    run(folder, out)
    assert "a.h5 is finished already: 12 images" in said()
    assert not list(tmp_path.glob("a.shard-*"))


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (".", "discs-8-rgb.h5"),
        ("./", "discs-8-rgb.h5"),
        ("../discs", "discs-8-rgb.h5"),
        ("0/..", "discs-8-rgb.h5"),
        ("my discs.tar", "my_discs-8-rgb.h5"),
    ],
)
def test_a_data_file_is_named_after_its_source_however_that_is_written(source, expected, tmp_path, monkeypatch):
    from discli.data.encode import _default_out

    (tmp_path / "discs" / "0").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "discs")
    assert _default_out(Path(source), [Size(8, 8)], "rgb") == Path(expected)


def test_under_srun_tasks_are_shards_too_and_a_part_is_not_silent(folder, tmp_path, monkeypatch, said):
    out = tmp_path / "a.h5"
    for name, value in {"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2", "SLURM_NTASKS": "2"}.items():
        monkeypatch.setenv(name, value)
    run(folder, out)
    assert not out.exists()
    assert "its part, 2 of 2; the others' are missing: 1 of 2 parts" in said()
    monkeypatch.setenv("SLURM_PROCID", "0")
    run(folder, out)
    for name in ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name)
    assert out.read_bytes() == run(folder, tmp_path / "b.h5").read_bytes()


def test_in_a_batch_script_one_process_encodes_all(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_PROCID", "0")
    monkeypatch.setenv("SLURM_NTASKS", "8")
    run(folder, tmp_path / "a.h5")
    assert len(open_store(tmp_path / "a.h5")) == 12


@pytest.fixture
def jpegs(tmp_path):
    files = {f"{k}.jpg": saved(pixels(k, 90, 70), "JPEG") for k in range(3)}
    return write_folder(tmp_path / "jpegs", files)


def test_fast_decode_is_recorded_and_never_mixed_with_the_exact_one(jpegs, tmp_path, said):
    exact, fast = run(jpegs, tmp_path / "exact.h5"), run(jpegs, tmp_path / "fast.h5", fast_decode=True)
    assert [open_store(path).contract.fast_decode for path in (exact, fast)] == [False, True]
    assert "--fast-decode" in dict(open_store(fast).contract.describe())["images"]
    apart = np.abs(open_store(exact).read(np.arange(3)).int() - open_store(fast).read(np.arange(3)).int())
    assert 0 < apart.float().mean() < 10
    with pytest.raises(DiscliError, match="fast_decode True, not False"):
        run(jpegs, fast)


def test_fast_decode_is_refused_where_nothing_is_halved(jpegs, tmp_path):
    with pytest.raises(DiscliError, match="--fast-decode"):
        run(jpegs, tmp_path / "a.h5", crop="resize", fast_decode=True)


def test_an_unfinished_file_is_not_resumed_with_the_other_decoding(jpegs, tmp_path, monkeypatch):
    monkeypatch.setattr("discli.data.writer.StoreWriter.finish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run(jpegs, tmp_path / "a.h5", batch_size=1)
    monkeypatch.undo()
    with pytest.raises(DiscliError, match="fast_decode"):
        run(jpegs, tmp_path / "a.h5", fast_decode=True)
