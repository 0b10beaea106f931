"""Images in, samples out. Names nothing here: decoding workers import this package and must not pay for torch."""
