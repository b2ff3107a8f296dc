"""The battery of filter2d, upsample2d and downsample2d: upfirdn2d with the padding worked out."""

import torch
from op_tests import Sample
from test_upfirdn2d import TestUpfirdn2d as Battery
from test_upfirdn2d import numbers


class Helper(Battery):
    kernel = "upfirdn2d"
    factor = ""

    def samples(self):
        factors = ({self.factor: 3}, {self.factor: [1, 2], "gain": -1.5}) if self.factor else ({}, {"gain": -1.5})
        yield Sample({"x": numbers(2, 2, 4, 5), "f": numbers(4, seed=1) / 4}, {})
        yield Sample({"x": numbers(3, 1, 5, 4), "f": numbers(2, 3, seed=1) / 6}, {**factors[0], "flip_filter": True})
        yield Sample({"x": numbers(1, 2, 3, 4), "f": numbers(3, seed=1)}, {**factors[1], "padding": [1, 0, 2, -1]})
        yield Sample({"x": numbers(0, 3, 5, 4), "f": numbers(4)}, {})
        yield Sample({"x": numbers(2, 3, 1, 1), "f": numbers(2, 2)}, {"padding": 1})

    def bad(self):
        good = {"x": torch.ones(1, 1, 4, 4), "f": torch.ones(3)}
        yield good | {"x": torch.ones(3, 4, 4)}, "x has shape"
        yield good | {"f": torch.ones(1, 1, 1)}, "f has shape"
        yield good | {"f": torch.ones(3).double()}, "f has dtype"
        yield good | {"f": [1, 2]}, "f is list"
        yield good | {"padding": [1, 2, 3]}, "padding is"
        yield good | {"padding": -6}, "output would be empty"
        yield good | {"gain": float("nan")}, "gain is nan"
        if self.factor:
            yield good | {self.factor: 0}, f"{self.factor} is 0"

    def check_pruned(self, calls, wanted):
        super().check_pruned(calls, "filter" if wanted == "f" else wanted)

    # Of the operator that they call: its battery's. test_export.py has their programs.
    test_opcheck = test_compile = test_compile_dynamic_shapes = test_export = test_onnx = None


class TestFilter2d(Helper):
    name = "filter2d"


class TestUpsample2d(Helper):
    name = "upsample2d"
    factor = "up"


class TestDownsample2d(Helper):
    name = "downsample2d"
    factor = "down"


del Battery, Helper  # pytest would collect them here
