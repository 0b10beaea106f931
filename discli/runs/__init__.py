"""A run's folder: what lies where in it, whether it is whole, and how far it is."""
