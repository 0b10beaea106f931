"""What every room stands on: errors, console, files, random numbers, signals, processes."""
