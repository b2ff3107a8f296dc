"""What the GPU kernels compile to and how much memory they touch, against stated limits: `python -m gpu.evidence`.

Each operator lists its calls at a model's shapes in a module of its own; OPERATORS names the modules.
"""

OPERATORS = (
    "adain",
    "add_noise",
    "batch_norm_act",
    "bias_act",
    "conditional_batch_norm",
    "conv2d",
    "fade_in",
    "filtered_lrelu",
    "grid_sample2d",
    "maxout",
    "minibatch_stddev",
    "modulate_act",
    "modulated_conv2d",
    "per_sample",
    "pixel_norm",
    "pixel_shuffle_act",
    "spade_norm",
    "spectral_norm",
    "upfirdn2d",
)
SOURCE_OF = dict.fromkeys(("adain", "conditional_batch_norm", "spade_norm"), "batch_norm_act")
"""The stem of the CUDA sources of operators that have none of their own."""
TARGETS = (75, 80, 86, 89, 90, 100, 120)
AMD_TARGETS = ("gfx942",)
