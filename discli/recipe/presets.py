"""Sizes by name: the five published ones (arXiv:2402.05608, table 1, as the released code builds them) and two below.

The small ones are ours, for a CPU.
"""

# dis-s is 368 wide: the released code says so and the published 28.4 M parameters agree.
PRESETS: dict[str, dict[str, int]] = {
    "dis-xxs": {"embed_dim": 96, "depth": 7},
    "dis-xs": {"embed_dim": 192, "depth": 13},
    "dis-s": {"embed_dim": 368, "depth": 25},
    "dis-b": {"embed_dim": 768, "depth": 25},
    "dis-m": {"embed_dim": 768, "depth": 49},
    "dis-l": {"embed_dim": 1024, "depth": 49},
    "dis-h": {"embed_dim": 1536, "depth": 49},
}
