"""Pixels <-> what the model sees. ``Codec`` is the interface; rgb and vae are its two kinds."""

from discli.data.autoencoders.codec import Codec, load_codec, open_codec, to_model_space

__all__ = ["Codec", "load_codec", "open_codec", "to_model_space"]
