"""A run over latents that are normalised per channel keeps their statistics: what it is, and how it decodes."""

import numpy as np
import pytest
import torch

from discli.data.autoencoders import open_codec
from discli.data.channel_moments import ChannelMoments
from discli.runtime.errors import DiscliError
from discli.sampling.load import load
from discli.sampling.sample import sample
from discli.training.train import train
from tests.data.autoencoders.autoencoders import save_kl
from tests.data.files import contract, some_rows, write_store
from tests.tiny_run import RECIPE

ONE_STEP = ["train.steps=1", "train.holdout_every=0", "model.num_classes=0", "model.patch_size=1"]
CODEC = 'data.codec={name="vae", channels=16, downsample=4}'


def _file(path, codec, spread):
    promise = contract(codec=codec.identity, dtype="float16", flip_stored=True, resolution=8)
    rows = (some_rows(16, promise) * spread).astype(np.float16)
    moments = ChannelMoments()
    moments.add(rows, codec.identity)
    measured = moments.of_contract(codec.identity)._asdict()
    return write_store(path, rows, promise.model_copy(update=measured))


def test_it_decodes_with_them_and_goes_on_with_no_others(tmp_path):
    vae = save_kl(tmp_path / "vae", scaling_factor=0.18215, channels=16, halvings=2)
    codec = open_codec("vae", str(vae))
    data, other = _file(tmp_path / "a.h5", codec, 1.0), _file(tmp_path / "b.h5", codec, 2.0)
    (tmp_path / "tiny.toml").write_text(RECIPE)
    settings = [*ONE_STEP, CODEC]
    run = train(tmp_path / "tiny.toml", data=data, out=tmp_path / "run", overrides=settings, device="cpu")
    with pytest.raises(DiscliError, match=r"codec\.mean .*\(16 values\)") as refused:
        train(tmp_path / "tiny.toml", data=other, out=run, overrides=[*settings, "train.steps=2"], device="cpu")
    assert refused.value.status == 2
    begun = train(
        tmp_path / "tiny.toml", data=other, out=tmp_path / "begun", overrides=settings, device="cpu", begin_from=run
    )
    assert '"latents"' in (begun / "run.json").read_text()

    with pytest.raises(DiscliError, match=r"Autoguidance.*codec\.mean") as refused:
        sample(run, 1, autoguidance=begun, cfg_scale=2.0, device="cpu")
    assert refused.value.status == 2

    data.unlink()
    model = load(run, device="cpu")
    identity = model.load_codec().identity
    assert identity.mean == model.contract.codec.mean
    assert np.ptp(identity.std) > 0
    z = torch.randn(2, 16, 2, 2, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(values)[:, None, None] for values in (identity.mean, identity.std))
    exact = codec.image(z * std + mean)
    assert (model.load_codec().decode(z) - ((exact + 1) * 127.5).clamp(0, 255)).abs().max() < 0.6
    assert load(begun, device="cpu").contract.codec.std != identity.std
