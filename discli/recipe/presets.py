"""The five published sizes (arXiv:2402.05608, table 1, as the released code builds them)."""

# dis-s is 368 wide: the released code says so and the published 28.4 M parameters agree.
PRESETS: dict[str, dict[str, int]] = {
    "dis-s": {"embed_dim": 368, "depth": 25},
    "dis-b": {"embed_dim": 768, "depth": 25},
    "dis-m": {"embed_dim": 768, "depth": 49},
    "dis-l": {"embed_dim": 1024, "depth": 49},
    "dis-h": {"embed_dim": 1536, "depth": 49},
}
