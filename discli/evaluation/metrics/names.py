"""What scores are called. A score on other features never bears the name of the one on Inception's."""

RANDOM_FD = "FD (random features), not comparable with FID"

# Each with the feature it reads; only Inception has all three.
METRICS = {"fid": "features", "kid": "features", "prc": "features", "sfid": "spatial", "is": "logits"}

_TRAINED = {"fid": "FID", "sfid": "sFID", "is": "IS", "kid": "KID", "precision": "precision", "recall": "recall"}


def score_name(score: str, features: str) -> str:
    """``score``: fid, sfid, is, kid, precision or recall; ``features``: the extractor's name."""
    if features == "inception":
        return _TRAINED[score]
    if features == "random":
        return RANDOM_FD if score == "fid" else f"{_TRAINED[score]} (random features)"
    return f"FD ({features})" if score == "fid" else f"{_TRAINED[score]} ({features})"
