"""The scan's backward pass in CUDA C++, compiled where it runs by NVRTC; the rest is `discli.scan.triton`."""
