"""The GPU kernels of adain and of adain_from, executed without a GPU."""

import test_adain
from gpu.battery import OnGpuInPart


class TestAdainOnGpu(OnGpuInPart, test_adain.TestAdain):
    test_sizes_that_cross_tiles_and_blocks = None

    def samples(self):
        yield self.sample((2, 3, 4, 5))
        yield self.sample((2, 8, 4, 3), last=True, eps=0.1)
        yield self.sample((0, 3, 4, 4))
        yield self.sample((1, 2, 7, 7))


class TestAdainFromOnGpu(OnGpuInPart, test_adain.TestAdainFrom):
    """The kernels are adain's but for the statistics alone."""

    test_sizes_that_cross_tiles_and_blocks = None
    test_mean_far_above_the_deviation = test_gradients_of_a_batch_of_cotangents = None

    def samples(self):
        yield self.sample((2, 3, 4, 5), (2, 3, 3, 2))
        yield self.sample((2, 8, 4, 3), (2, 8, 3, 3), last=True, eps=0.1)
        yield self.sample((1, 2, 7, 7), (1, 2, 3, 4))
