"""A small autoencoder of many channels, trained on a zip of images: something to try latents with.

    python -m tests.bench.autoencoder cifar10-train.zip OUT --seconds 240

Writes a diffusers folder for ``discli encode --vae OUT``: AutoencoderKL, 16 channels, a quarter of the side, which
publishes no scale. KL weighs so little, as where latents are made for diffusion (arXiv:2112.10752, section 3.1), that
each channel ends with a mean and a spread of its own.
"""

import argparse
import io
import time
import zipfile

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image


def read_images(archive: str, side: int, count: int) -> torch.Tensor:
    """(count, 3, side, side) uint8, spread over the zip."""
    with zipfile.ZipFile(archive) as file:
        names = [name for name in file.namelist() if name.endswith((".png", ".jpg", ".JPEG"))]
        chosen = [names[place * len(names) // count] for place in range(count)]
        images = [Image.open(io.BytesIO(file.read(name))).convert("RGB").resize((side, side)) for name in chosen]
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images")
    parser.add_argument("out")
    parser.add_argument("--seconds", type=float, default=240)
    parser.add_argument("--channels", type=int, default=16)
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--kl", type=float, default=1e-6)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    widths = (24, 48, 64)
    autoencoder = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=widths,
        layers_per_block=1,
        latent_channels=asked.channels,
        norm_num_groups=8,
        mid_block_add_attention=False,
    )
    images = read_images(asked.images, asked.side, 10_000)
    optimizer = torch.optim.AdamW(autoencoder.parameters(), lr=2e-3, weight_decay=0)
    started, step = time.process_time(), 0
    while (spent := (time.process_time() - started) / asked.seconds) < 1:
        optimizer.param_groups[0]["lr"] = 2e-3 * (1 - spent) * min(1, (step + 1) / 50)
        batch = images[torch.randint(len(images), (32,))].float() / 127.5 - 1
        posterior = autoencoder.encode(batch).latent_dist
        decoded = autoencoder.decode(posterior.sample()).sample
        loss = (decoded - batch).abs().mean() + asked.kl * posterior.kl().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(autoencoder.parameters(), 1.0)
        optimizer.step()
        if step % 200 == 0:
            print(f"step {step}: {loss.item():.4f}", flush=True)
        step += 1
    with torch.no_grad():
        batch = images[:: len(images) // 200].float() / 127.5 - 1
        latent = autoencoder.encode(batch).latent_dist.mean
        error = (autoencoder.decode(latent).sample.clamp(-1, 1) - batch).square().mean() / 4
    count = sum(parameter.numel() for parameter in autoencoder.parameters())
    print(f"{count:,} parameters, {step} steps, PSNR {-10 * error.log10():.1f} dB")
    print("mean per channel", [round(value, 2) for value in latent.mean((0, 2, 3)).tolist()])
    print("std per channel", [round(value, 2) for value in latent.std((0, 2, 3)).tolist()])
    autoencoder.save_pretrained(asked.out)


if __name__ == "__main__":
    main()
