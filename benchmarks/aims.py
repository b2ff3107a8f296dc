"""What the CPU kernels are built to reach; `table.py` prints it beside what was measured."""

SHARES = {
    "upfirdn2d blur 4 taps [4, 64, 128, 128]": 60,
    "upfirdn2d up 2 4 taps [4, 64, 128, 128]": 45,
    "upfirdn2d down 2 4 taps [4, 64, 128, 128]": 45,
    "bias_act lrelu [4, 64, 128, 128]": 75,
    "bias_act swish [4, 64, 128, 128]": 60,
    "filtered_lrelu up 2 down 2 12 taps [2, 32, 128, 128]": 40,
    "modulated_conv2d [4,512,8,8] up 1": 70,
    "modulated_conv2d [4,256,32,32] up 1": 90,
    "modulated_conv2d [4,128,64,64] up 1": 90,
    "modulated_conv2d [4,64,128,128] up 1": 90,
    "modulated_conv2d [4,512,8,8] up 2": 60,
    "modulated_conv2d [4,256,32,32] up 2": 80,
    "modulated_conv2d [4,128,64,64] up 2": 75,
    "modulated_conv2d [4,64,128,128] up 2": 65,
    "conv2d_resample [4,512,8,8] down 2": 60,
    "conv2d_resample [4,256,32,32] down 2": 80,
    "conv2d_resample [4,128,64,64] down 2": 75,
    "conv2d_resample [4,64,128,128] down 2": 70,
    "conv_transpose2d [16,512,4,4] to 256 k4 s2 p1": 80,
    "conv_transpose2d [16,256,8,8] to 128 k4 s2 p1": 98,
    "conv_transpose2d [16,128,16,16] to 64 k4 s2 p1": 92,
    "conv_transpose2d [16,64,32,32] to 3 k4 s2 p1": 50,
    "adain float32 contiguous [4, 64, 128, 128]": 50,
    "pixel_norm float32 contiguous [4, 512, 32, 32]": 65,
    "minibatch_stddev float32 contiguous [32, 512, 4, 4]": 35,
}
"""Percent of the limit, in forward."""

_CONVOLUTIONS = ("conv2d", "conv_transpose2d", "conv2d_resample", "modulated_conv2d", "modulated_conv2d_act")
_SECOND = {"bias_act": 2.0, "adain": 5.0, "pixel_norm": 5.0, "minibatch_stddev": 5.0}


def growth(label: str, order: str) -> float | None:
    """How many times the order before it an order may take, where that is aimed at."""
    operator = label.split()[0]
    if order == "forward+backward":
        return 3.2 if operator in _CONVOLUTIONS else 2.5
    return _SECOND.get(operator) if order == "second order" else None
