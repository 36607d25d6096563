"""Triton kernels; imported where tensors are on CUDA, or in Triton's interpreter by tests."""
