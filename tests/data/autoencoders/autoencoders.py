"""Real diffusers autoencoders, small and randomly initialised, saved as their users have them: in folders."""

from pathlib import Path
from typing import Any

import torch


def save_kl(
    folder: Path,
    seed: int = 0,
    scaling_factor: float = 0.5,
    shift_factor: float | None = None,
    channels: int = 4,
    halvings: int = 3,
    attention: bool = False,
    **settings: Any,
) -> Path:
    """AutoencoderKL; ``attention``: at the smallest side, too, as VA-VAE and what came of it have it."""
    from diffusers import AutoencoderKL

    torch.manual_seed(seed)
    AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * halvings + (f"{'Attn' if attention else ''}DownEncoderBlock2D",),
        up_block_types=(f"{'Attn' if attention else ''}UpDecoderBlock2D",) + ("UpDecoderBlock2D",) * halvings,
        block_out_channels=(8,) * (halvings - 1) + (16, 16),
        latent_channels=channels,
        norm_num_groups=4,
        scaling_factor=scaling_factor,
        shift_factor=shift_factor,
        **settings,
    ).save_pretrained(folder)
    return folder


def save_flux2(folder: Path) -> Path:
    """AutoencoderKLFlux2, 32 channels at an eighth of the side: 128 at a sixteenth."""
    from diffusers import AutoencoderKLFlux2

    torch.manual_seed(0)
    AutoencoderKLFlux2(block_out_channels=(8, 8, 16, 16), layers_per_block=1, norm_num_groups=4).save_pretrained(folder)
    return folder


def save_tiny(folder: Path) -> Path:
    """AutoencoderTiny, 4 channels, an eighth of the side."""
    from diffusers import AutoencoderTiny

    torch.manual_seed(0)
    channels = (8, 8, 8, 8)
    AutoencoderTiny(
        encoder_block_out_channels=channels,
        decoder_block_out_channels=channels,
        num_encoder_blocks=(1, 1, 1, 1),
        num_decoder_blocks=(1, 1, 1, 1),
    ).save_pretrained(folder)
    return folder


def save_dc(folder: Path, latent_channels: int = 8, scaling_factor: float = 0.25) -> Path:
    """AutoencoderDC, a thirty-second of the side."""
    from diffusers import AutoencoderDC

    torch.manual_seed(0)
    channels = (8, 8, 8, 8, 16, max(16, latent_channels))
    AutoencoderDC(
        latent_channels=latent_channels,
        attention_head_dim=8,
        encoder_block_types=("ResBlock",) * 6,
        decoder_block_types=("ResBlock",) * 6,
        encoder_block_out_channels=channels,
        decoder_block_out_channels=channels,
        encoder_layers_per_block=(1,) * 6,
        decoder_layers_per_block=(1,) * 6,
        encoder_qkv_multiscales=((),) * 6,
        decoder_qkv_multiscales=((),) * 6,
        scaling_factor=scaling_factor,
    ).save_pretrained(folder)
    return folder
