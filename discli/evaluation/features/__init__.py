"""Feature networks, one file each, found by this folder. See ../README.md to add one."""
