"""What a run will take: parameters, FLOPs, memory, disk and time."""
