"""Kernels for CPUs and GPUs, imported as tinyddpm.kernels; `tinyddpm.backend` loads them by name.

cpu/ops.py holds the operations that Numba speeds up on a CPU, over
- convolution.py, which chooses the kernel for a shape; layout.py, where pixels lie; prepared.py,
  weights kept for sampling;
- direct.py and winograd.py (with winograd_transforms.py), the convolutions; tiles.py, their
  innermost loops;
- groupnorm.py, GroupNorm for whole vectors of channels, and groupnorm_rows.py for others; silu.py;
  channels.py, passes over an image;
- fused_steps.py, noise and the steps; jit.py, how all of them are compiled.

gpu/cupy_ops.py holds the operations over CuPy's arrays, and gpu/cuda_ops.py those with CUDA
kernels, over
- layers.py, a network's layers, linear.py and tiled.py, linear layers and convolution by tiles,
  and products.py, matrix products by cuBLAS;
- capture.py, whole steps recorded as graphs and replayed;
- fused_steps.py, noise and the steps; groupnorm.py, GroupNorm and SiLU; im2col.py, patches;
  winograd.py, the transforms of tiles;
  dense.py, small linear layers; elementwise.py, what rides behind a product, SiLU, dropout;
  reductions.py, softmax, norms;
- device_functions.py, what the kernels call; signatures.py, their names and arguments; launch.py,
  how they are started; cubins.py, how the compiled ones are kept on disk;
- toolkit.py, where CUDA's compiler lies; ptx.py, the kernels compiled without a device;
  roofline.py, what they cost; philox.py, a kernel to check a device with.

The mathematics is in tinyddpm.formulas and, for logarithm and circle, in polynomials.py; kept.py
says where compiled code lies. Nothing is imported here.
"""
