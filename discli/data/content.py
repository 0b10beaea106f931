"""What a data file holds, as one hash."""

import hashlib
import json

import numpy as np

from discli.data.store import Store

_ROWS_HASHED = 256


def content_sha256(store: Store) -> str:
    """Of what the file says of its images, its labels, and some rows: it may be of 42 GB, and asked for often.

    The contract names the autoencoder's weights and the listing of the images by their hashes, and
    holds mean and deviation of all rows to the last digit.
    """
    contract = store.contract
    about = contract.settings() | contract.model_dump(
        mode="json", include={"num_samples", "num_skipped", "channel_mean", "channel_std"}
    )
    if contract.codec.statistics:
        about |= {"statistics": contract.codec.statistics}
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    if store.labels is not None:
        digest.update(np.ascontiguousarray(store.labels).data)
    rows = store.rows
    for place in range(_ROWS_HASHED if len(rows) else 0):
        digest.update(np.ascontiguousarray(rows[place * len(rows) // _ROWS_HASHED]).data)
    return digest.hexdigest()
