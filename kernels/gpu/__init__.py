"""CuPy and CUDA kernels for GPUs."""
