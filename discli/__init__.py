"""Diffusion models with state-space backbones (DiS, arXiv:2402.05608): train, sample, score."""

__version__ = "0.1.0"
