"""The accelerators, imported as tinyddpm.kernels: each module is loaded when `tinyddpm.backend`
asks for it.

On a CPU numba_ops holds the operations, over convolve and layout (which kernel, and where pixels
lie), conv and winograd (convolution), cpu (normalisation) and steps (noise, the fused steps), all
compiled as jit says. On a GPU it is cuda_ops, over cuda, cuda_norm, cuda_device and toolkit. The
mathematics is in tinyddpm.formulas and, for logarithm and circle, in polynomials. Nothing is
imported here.
"""
