"""Pixels <-> what the model sees. Each autoencoder is a file in this folder, found by being there: see `Codec`."""

from discli.data.autoencoders._codec import Codec, codec_class, load_codec, open_codec, to_pixels

__all__ = ["Codec", "codec_class", "load_codec", "open_codec", "to_pixels"]
