"""``discli info`` on data files: everything they record, for people and for programs, and an image."""

import json

import pytest
from PIL import Image

from discli.cli.info import info
from discli.data.encode import encode
from discli.data.shards import part_of
from discli.runtime.errors import DiscliError
from tests.data.autoencoders.autoencoders import save_kl
from tests.data.makers import class_files, write_folder


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "images", class_files(("ant", "bee"), each=3))


@pytest.fixture
def latents(folder, tmp_path):
    vae = str(save_kl(tmp_path / "vae"))
    return encode(folder, 16, vae=vae, out=tmp_path / "a.h5", workers=0, device="cpu")


def test_the_table_says_what_the_contract_says_and_where_the_sheet_is(latents, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "200")
    info(str(latents))
    text = capsys.readouterr().out
    sheet = tmp_path / "a.samples.png"
    said = ["6 of 16 px, crop adm", "AutoencoderKL", "sha256", "2 x 8 x 2 x 2 float16, both orientations"]
    said += ["2: 0 ant, 1 bee", "3 each", "mean", "std", f"{sheet}: source | sample | mirrored, of 6 images"]
    assert [one for one in said if one not in text] == []
    with Image.open(sheet) as image:
        assert min(image.size) > 64


def test_json_holds_the_contract(latents, tmp_path, capsys):
    info(str(latents), as_json=True, sheet=tmp_path / "other.png")
    record = json.loads(capsys.readouterr().out)
    assert record["kind"] == "data"
    assert record["contract"]["codec"]["vae"] == str(tmp_path / "vae")
    assert record["contract"]["num_samples"] == 6
    assert record["class_sizes"] == [3, 3]
    assert record["sheet"] == str(tmp_path / "other.png")
    assert (tmp_path / "other.png").exists()


def test_an_autoencoder_that_is_gone_costs_the_sheet_alone(latents, tmp_path, capsys):
    (tmp_path / "vae").rename(tmp_path / "moved")
    info(str(latents), as_json=True)
    said = capsys.readouterr()
    assert json.loads(said.out)["sheet"] is None
    assert "No contact sheet: There is no folder" in said.err
    info(str(latents), as_json=True, vae=str(tmp_path / "moved"))
    assert json.loads(capsys.readouterr().out)["sheet_columns"] == ["source", "sample", "mirrored"]


def test_a_part_is_shown_as_one(folder, tmp_path, capsys):
    encode(folder, 16, out=tmp_path / "a.h5", shard=(1, 2), workers=0)
    info(str(part_of(tmp_path / "a.h5", (1, 2))), n=0)
    assert "1 of 2, not merged yet" in capsys.readouterr().out


def test_what_is_no_data_file_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(DiscliError, match="not an HDF5 file"):
        info(str(tmp_path / "notes.txt"))
