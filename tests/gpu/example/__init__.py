"""Kernels that the tests of this folder run."""
