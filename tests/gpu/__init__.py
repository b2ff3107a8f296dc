"""GPU kernels compiled to PTX and executed on the CPU: test support, see README.md beside this file."""
