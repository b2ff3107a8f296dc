"""Bundled sets; every image mode; bad images; the order of training."""

import contextlib
import io

import numpy as np
import pytest
import torch
from data_support import BLUE, RED, Image, bomb, decode, fill, noise_png, png, split, two_colour_palette

from gankernels.data import ImageData, Sampler, load
from gankernels.data import images as images_module
from gankernels.data.source import _category
from gankernels.errors import DataError


def test_fashion_mnist():
    data = load("fashion-mnist", resolution=32)
    assert data.images.shape == (10000, 1, 32, 32)
    assert torch.equal(torch.bincount(data.labels), torch.full((10,), 1000))
    assert data.class_names[int(data.labels[0])] == "Ankle boot"
    assert not data.images[:, :, :2].any()
    assert not data.images[:, :, :, -2:].any()
    assert load("fashion-mnist", resolution=16, channels=3).images.shape == (10000, 3, 16, 16)


def test_emoji_composited_and_transparent():
    data = load("emoji", resolution=64)
    assert data.images.shape == (1911, 3, 64, 64)
    assert len(data.class_names) == 10
    clear = load("emoji:Smileys & Emotion", resolution=64, channels=4)
    assert clear.images.shape == (169, 4, 64, 64)
    assert clear.class_names == ("Smileys & Emotion",)
    corner = clear.images[:, 3, 0, 0]
    assert (corner == 0).float().mean() > 0.9, "emoji stand on transparent ground"
    white = load("emoji:Smileys & Emotion", resolution=64)
    assert (white.images[:, :, 0, 0][corner == 0] == 255).all(), "transparent ground is composited over white"


@pytest.mark.parametrize("given", ["Smileys & Emotion", "smileys & emotion", "Smileys", "sM"])
def test_emoji_of_a_category_by_its_beginning(given):
    data = load(f"emoji:{given}", resolution=16)
    assert data.name == "emoji:Smileys & Emotion"
    assert data.class_names == ("Smileys & Emotion",)
    assert len(data.images) == 169


def test_a_whole_name_is_not_ambiguous():
    assert _category("food", ("Food", "Food & Drink")) == "Food"
    assert load("emoji:", resolution=16).name == "emoji"


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("nothing-here", {"resolution": 32}, "unknown data 'nothing-here'"),
        ("fashion-mnist:Bag", {"resolution": 32}, "unknown data"),
        ("fashion-mnist", {"resolution": 64}, "ask for 32 or less"),
        ("emoji", {"resolution": 128}, "ask for 64 or less"),
        ("emoji:Cats", {"resolution": 32}, "it has Activities"),
        ("emoji:motion", {"resolution": 32}, "no category 'motion'; it has Activities"),
        ("emoji:s", {"resolution": 32}, "2 categories that begin with 's': Smileys & Emotion, Symbols; write more"),
        ("emoji", {"resolution": 0}, "resolution"),
        ("emoji", {"resolution": 32, "channels": 5}, "channels"),
    ],
)
def test_what_cannot_be_had_is_named(name, options, words):
    with pytest.raises(DataError, match=words):
        load(name, **options)


MODES = {
    "grey": (png(split("L", 0, 200)), (0, 0, 0), (200, 200, 200)),
    "grey+alpha": (png(split("LA", (0, 255), (0, 0))), (0, 0, 0), (255, 255, 255)),
    "RGB": (png(split("RGB", RED, BLUE)), RED, BLUE),
    "RGBA": (png(split("RGBA", (*RED, 255), (*BLUE, 0))), RED, (255, 255, 255)),
    "half transparent": (png(split("RGBA", (*RED, 255), (0, 0, 0, 128))), RED, (127, 127, 127)),
    "palette": (png(split("RGB", RED, BLUE).quantize(2)), RED, BLUE),
    "palette+alpha": (png(two_colour_palette(), transparency=1), (0, 0, 0), (255, 255, 255)),
    "key colour": (png(split("RGB", RED, BLUE), transparency=BLUE), RED, (255, 255, 255)),
    "bilevel": (png(split("1", 0, 1)), (0, 0, 0), (255, 255, 255)),
    "CMYK": (png(split("CMYK", (0, 255, 255, 0), (0, 0, 0, 255)), format="TIFF"), RED, (0, 0, 0)),
    "CMYK jpeg": (png(split("CMYK", (0, 255, 255, 0), (0, 0, 0, 255), (16, 16)), format="JPEG"), RED, (0, 0, 0)),
    "YCbCr": (png(split("RGB", RED, BLUE, (32, 32)), format="JPEG", quality=95, subsampling=0), RED, BLUE),
    "gif": (png(split("RGB", RED, BLUE), format="GIF"), RED, BLUE),
    "webp": (png(split("RGB", RED, BLUE), format="WEBP", lossless=True), RED, BLUE),
    "bmp": (png(split("RGB", RED, BLUE), format="BMP"), RED, BLUE),
}


@pytest.mark.parametrize("mode", MODES)
def test_modes(mode):
    data, left, right = MODES[mode]
    pixels = decode(data).astype(int)
    assert np.abs(pixels[:, 4, 1] - left).max() <= 3
    assert np.abs(pixels[:, 4, 6] - right).max() <= 3


def test_16_bit_grey_is_scaled_not_cut():
    values = np.array([[0, 257 * 100], [65535, 257 * 200 + 100]], np.uint16)
    pixels = decode(png(Image.fromarray(values)), 2, 1)
    assert pixels.tolist() == [[[0, 100], [255, 200]]]
    assert decode(png(Image.fromarray(values), format="TIFF"), 2, 1).tolist() == pixels.tolist()


def test_channels_of_the_result():
    clear = png(split("RGBA", (*RED, 255), (*BLUE, 0)))
    assert decode(clear, channels=4)[:, 0, 0].tolist() == [255, 0, 0, 255]
    assert decode(clear, channels=4)[3, 0, 7] == 0
    assert decode(clear, channels=2)[:, 0, 0].tolist() == [76, 255]
    assert decode(png(split("L", 5, 9)), channels=4)[:, 0, 0].tolist() == [5, 5, 5, 255]
    assert decode(png(split("RGB", RED, BLUE)), channels=1)[0, 0, 0] == 76


def test_hidden_colours_do_not_bleed_when_resized():
    checker = Image.new("RGBA", (64, 64), (*RED, 255))
    for x in range(0, 64, 2):
        checker.paste((*BLUE, 0), (x, 0, x + 1, 64))
    pixels = decode(png(checker), 8, 4)
    assert pixels[0].min() == 255
    assert pixels[2].max() == 0
    assert 100 < pixels[3].mean() < 156


def test_exif_rotation():
    exif = Image.Exif()
    exif[0x0112] = 6  # stored turned a quarter to the left; shown, the stored left edge is at the top
    stored = split("RGB", RED, BLUE, (32, 32))
    pixels = decode(png(stored, format="JPEG", exif=exif, quality=95), 32).astype(int)
    assert np.abs(pixels[:, 4, 16] - RED).max() <= 3
    assert np.abs(pixels[:, 28, 16] - BLUE).max() <= 3


@pytest.mark.parametrize("size", [(31, 8), (8, 31), (9, 8)])
def test_the_centre_square_is_kept(size):
    grid = np.zeros((size[1], size[0]), np.uint8)
    top, left = (size[1] - 8) // 2, (size[0] - 8) // 2
    grid[top : top + 8, left : left + 8] = np.arange(64, dtype=np.uint8).reshape(8, 8) + 100
    assert decode(png(Image.fromarray(grid)), 8, 1)[0].tolist() == (np.arange(64).reshape(8, 8) + 100).tolist()


def test_reduction_averages_every_pixel():
    stripes = np.tile(np.array([[0, 255]], np.uint8), (64, 32))
    pixels = decode(png(Image.fromarray(stripes)), 8, 1).astype(int)
    assert np.abs(pixels - 127).max() <= 8


BAD = {
    "empty": (b"", "empty"),
    "text": (b"not an image at all", "not an image"),
    "truncated png": (noise_png()[:400], "truncated"),
    "truncated jpeg": (png(Image.open(io.BytesIO(noise_png())), format="JPEG")[:-200], "truncated"),
    "flipped bits": (noise_png()[:60] + b"\xff" * 40 + noise_png()[100:], "damaged"),
    "bomb": (bomb(), "over the limit"),
    "floating point": (png(Image.new("F", (8, 8), 0.5), format="TIFF"), "range is not stated"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_images_say_why(kind):
    data, reason = BAD[kind]
    with pytest.raises(images_module.BadImage, match=reason):
        decode(data)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_damaged_bytes_never_raise_anything_else():
    rng = np.random.default_rng(1)
    for data, _, _ in MODES.values():
        for _ in range(20):
            damaged = np.frombuffer(data, np.uint8).copy()
            where = rng.integers(0, len(damaged), 5)
            damaged[where] = rng.integers(0, 256, 5)
            cut = rng.integers(1, len(damaged) + 1)
            with contextlib.suppress(images_module.BadImage):
                assert decode(damaged[:cut].tobytes()).shape == (3, 8, 8)


def test_small_images(tmp_path):
    fill(tmp_path, 3)
    with pytest.raises(DataError, match="ask for 8 or less"):
        load(str(tmp_path), resolution=16)
    fill(tmp_path, 1, resolution=20, start=3)
    data = load(str(tmp_path), resolution=16)
    assert len(data) == 4
    assert "3 of 4 images are smaller than 16" in data.notes[0]
    assert data.labels is None


def test_batch_range_and_mirror():
    pixels = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    data = ImageData("x", torch.cat([pixels, pixels]))
    batch = data.batch(torch.tensor([0, 1]), torch.tensor([False, True]))
    assert batch.dtype == torch.float32
    assert batch.min() == -1
    assert batch.max() == 1
    assert torch.equal(batch[1], batch[0].flip(2))
    assert data.digest() == ImageData("y", data.images.clone()).digest()
    assert data.digest() != ImageData("x", data.images.flip(3)).digest()


def test_sampler_covers_every_epoch_and_resumes_anywhere():
    whole = Sampler(10, seed=3, mirror=True)
    drawn = [whole.next(4) for _ in range(10)]
    indices = torch.cat([i for i, _ in drawn])
    for epoch in range(4):
        assert sorted(indices[10 * epoch : 10 * epoch + 10].tolist()) == list(range(10))
    assert indices[:10].tolist() != indices[10:20].tolist()
    first = Sampler(10, seed=3, mirror=True)
    for _ in range(3):
        first.next(4)
    second = Sampler(10, seed=3, mirror=True, **first.state())
    for i, flips in drawn[3:]:
        again, again_flips = second.next(4)
        assert torch.equal(i, again)
        assert torch.equal(flips, again_flips)
    assert not torch.equal(Sampler(10, seed=4).next(10)[0], drawn[0][0])
    assert Sampler(3, seed=0).next(8)[0].shape == (8,), "a batch larger than the set"
