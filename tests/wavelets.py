"""Writes gankernels/nn/wavelets.json, the taps that the augmentation uses, from PyWavelets:

pip install PyWavelets && cd tests && python -m wavelets
"""

import json
import pathlib

PATH = pathlib.Path(__file__).resolve().parent.parent / "gankernels" / "nn" / "wavelets.json"
NAMES = ("sym2", "sym6")


def taps() -> dict[str, list[float]]:
    """The low-pass synthesis filter of each wavelet, orthonormal: its squares sum to 1."""
    import pywt

    return {name: pywt.Wavelet(name).rec_lo for name in NAMES}


if __name__ == "__main__":
    PATH.write_text(json.dumps(taps(), indent=1) + "\n")
