"""Studies: a plan of trials, the workers that run them, and the report."""
