"""Whole networks composed of gankernels' operators, one system a file; installed as ``gankernels.models``."""

if __name__ != "gankernels.models":
    raise ImportError("this folder is installed as gankernels.models: import gankernels.models")
