"""Real diffusers autoencoders, small and randomly initialised, saved as their users have them: in folders."""

from pathlib import Path

import torch


def save_kl(folder: Path, seed: int = 0, scaling_factor: float = 0.5, shift_factor: float | None = None) -> Path:
    """AutoencoderKL, 4 channels, an eighth of the side."""
    from diffusers import AutoencoderKL

    torch.manual_seed(seed)
    AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 16, 16),
        latent_channels=4,
        norm_num_groups=4,
        scaling_factor=scaling_factor,
        shift_factor=shift_factor,
    ).save_pretrained(folder)
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


def save_dc(folder: Path) -> Path:
    """AutoencoderDC, 8 channels, a thirty-second of the side."""
    from diffusers import AutoencoderDC

    torch.manual_seed(0)
    channels = (8, 8, 8, 8, 16, 16)
    AutoencoderDC(
        latent_channels=8,
        attention_head_dim=8,
        encoder_block_types=("ResBlock",) * 6,
        decoder_block_types=("ResBlock",) * 6,
        encoder_block_out_channels=channels,
        decoder_block_out_channels=channels,
        encoder_layers_per_block=(1,) * 6,
        decoder_layers_per_block=(1,) * 6,
        encoder_qkv_multiscales=((),) * 6,
        decoder_qkv_multiscales=((),) * 6,
        scaling_factor=0.25,
    ).save_pretrained(folder)
    return folder
