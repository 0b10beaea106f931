"""Networks that see objects, from weights files alone: for scores, and for alignment."""
