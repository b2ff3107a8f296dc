"""Bundled sets, folders and zip files; every image mode; bad files; the order of training."""

import contextlib
import io
import struct
import threading
import tracemalloc
import zipfile
import zlib

import numpy as np
import pytest
import torch

from gankernels.data import ImageData, Sampler, load, reading
from gankernels.data import images as images_module
from gankernels.errors import DataError

Image = pytest.importorskip("PIL.Image")

RED, BLUE = (255, 0, 0), (0, 0, 255)


def png(image, **options):
    buffer = io.BytesIO()
    image.save(buffer, options.pop("format", "PNG"), **options)
    return buffer.getvalue()


def split(mode, left, right, size=(8, 8)):
    """An image whose left half is one colour and whose right half is another."""
    image = Image.new(mode, size, right)
    image.paste(left, (0, 0, size[0] // 2, size[1]))
    return image


def two_colour_palette():
    image = split("P", 0, 1)
    image.putpalette([0, 0, 0, *BLUE])
    return image


def decode(data, resolution=8, channels=3):
    return images_module.decode(data, resolution, channels).pixels


def fill(folder, count, resolution=8, start=0):
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(start, start + count):
        Image.new("RGB", (resolution, resolution), (i % 256, 0, 0)).save(folder / f"{i:04}.png")


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


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("nothing-here", {"resolution": 32}, "unknown data 'nothing-here'"),
        ("fashion-mnist:Bag", {"resolution": 32}, "unknown data"),
        ("fashion-mnist", {"resolution": 64}, "ask for 32 or less"),
        ("emoji", {"resolution": 128}, "ask for 64 or less"),
        ("emoji:Cats", {"resolution": 32}, "it has Activities"),
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


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb():
    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def noise_png():
    return png(Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)))


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


@pytest.mark.parametrize("packed", [False, True], ids=["folder", "zip"])
def test_folder_and_zip_with_labels_and_bad_files(tmp_path, packed):
    root = tmp_path / "set"
    fill(root / "wrapper" / "b", 60)
    fill(root / "wrapper" / "a", 60, start=60)
    (root / "wrapper" / "a" / "zero.png").write_bytes(b"")
    (root / "wrapper" / "a" / "bomb.PNG").write_bytes(bomb())
    (root / "wrapper" / "notes.txt").write_text("no image")
    (root / "wrapper" / ".hidden.png").write_bytes(b"")
    source = root
    if packed:
        source = tmp_path / "set.zip"
        with zipfile.ZipFile(source, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in sorted(root.rglob("*")):
                archive.write(path, path.relative_to(root))
    data = load(str(source), resolution=8)
    assert data.images.shape == (120, 3, 8, 8)
    assert data.class_names == ("a", "b")
    assert data.labels.tolist() == [0] * 60 + [1] * 60
    assert data.images[:, 0, 0, 0].tolist() == [*range(60, 120), *range(60)]
    (note,) = data.notes
    assert "skipped 2 of 122" in note
    assert "zero.png: the file is empty" in note
    assert "bomb.PNG" in note


def test_more_than_5_percent_bad_ends_with_the_list(tmp_path):
    fill(tmp_path, 38)
    for i in range(2):
        (tmp_path / f"bad{i}.png").write_bytes(b"junk")
    assert len(load(str(tmp_path), resolution=8)) == 38, "5 % exactly is borne"
    (tmp_path / "bad2.png").write_bytes(b"")
    with pytest.raises(DataError, match="3 of 41 images cannot be used") as caught:
        load(str(tmp_path), resolution=8)
    assert all(f"bad{i}.png" in str(caught.value) for i in range(3))


def test_damaged_zip_members_are_listed(tmp_path):
    fill(tmp_path / "images", 40)
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted((tmp_path / "images").iterdir()):
            archive.write(file, file.name)
        offset = archive.getinfo("0007.png").header_offset
    content = bytearray(path.read_bytes())
    content[offset + 60] ^= 0xFF
    path.write_bytes(content)
    data = load(str(path), resolution=8)
    assert len(data) == 39
    assert "0007.png: cannot be unpacked" in data.notes[0]


def packed(path, odd, compression=zipfile.ZIP_DEFLATED, change=None):
    """A zip of 40 good images and the member odd.png; `change` gets the archive's bytes and that member's ZipInfo."""
    with zipfile.ZipFile(path, "w") as archive:
        for i in range(40):
            archive.writestr(f"{i:04}.png", png(Image.new("RGB", (8, 8), (i, 0, 0))))
        archive.writestr("odd.png", odd, compression)
        info = archive.getinfo("odd.png")
    if change is not None:
        content = bytearray(path.read_bytes())
        change(content, info)
        path.write_bytes(content)
    return str(path)


def in_both_headers(local, central, form, value):
    """Change a field of a member, in its own header and in the archive's directory."""

    def change(content, info):
        struct.pack_into(form, content, info.header_offset + local, value)
        struct.pack_into(form, content, content.rindex(b"PK\x01\x02") + central, value)

    return change


def damage(content, info):
    start = info.header_offset + 30 + len(info.filename)
    content[start + 9 : start + info.compress_size] = b"\xff" * (info.compress_size - 9)


def damage_name(content, info):
    struct.pack_into("<H", content, info.header_offset + 6, 2048)  # the name is said to be UTF-8
    content[info.header_offset + 30] = 0xFF


ODD = {
    "lzma, its data": (noise_png(), zipfile.ZIP_LZMA, damage, "Corrupt input data"),
    "lzma, cut in its header": (noise_png(), zipfile.ZIP_LZMA, in_both_headers(18, 20, "<I", 3), "unpacked"),
    "deflated": (noise_png(), zipfile.ZIP_DEFLATED, damage, "unpacked"),
    "encrypted": (noise_png(), zipfile.ZIP_STORED, in_both_headers(6, 8, "<H", 1), "encrypted"),
    "unknown compression": (noise_png(), zipfile.ZIP_STORED, in_both_headers(8, 10, "<H", 97), "compression 97"),
    "bzip2": (noise_png(), zipfile.ZIP_BZIP2, None, "compression 12"),
    "name": (noise_png(), zipfile.ZIP_STORED, damage_name, "unpacked"),
}


@pytest.mark.parametrize("kind", ODD)
def test_members_that_cannot_be_unpacked_are_listed(tmp_path, kind):
    content, compression, change, reason = ODD[kind]
    data = load(packed(tmp_path / "set.zip", content, compression, change), resolution=8)
    assert len(data) == 40
    (note,) = data.notes
    assert "odd.png: cannot be unpacked (" in note
    assert reason in note


def test_lzma_members_are_read(tmp_path):
    data = load(packed(tmp_path / "set.zip", noise_png(), zipfile.ZIP_LZMA), resolution=8)
    assert len(data) == 41
    assert not data.notes


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA], ids=["deflate", "lzma"])
@pytest.mark.parametrize("stated", [None, 1000], ids=["honest", "lying"])
def test_zip_bombs_are_not_unpacked(tmp_path, monkeypatch, compression, stated):
    monkeypatch.setattr(reading, "MAX_FILE_BYTES", 2**20)
    lie = None if stated is None else in_both_headers(22, 24, "<I", stated)
    path = packed(tmp_path / "set.zip", bytes(100 * 2**20), compression, lie)
    load(packed(tmp_path / "warm.zip", noise_png()), resolution=8)
    tracemalloc.start()
    try:
        data = load(path, resolution=8)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(data) == 40
    reason = "file of over 1 MiB" if stated is None else "cannot be unpacked (Bad CRC"
    assert f"odd.png: {reason}" in data.notes[0]
    assert peak < 80 * 2**20, "LZMA unpacks 4 KiB, which may be 28 MiB, at a time, into a buffer that doubles"


def test_a_stream_longer_than_it_states_is_cut(monkeypatch):
    monkeypatch.setattr(reading, "MAX_FILE_BYTES", 1000)
    stream = io.BytesIO(bytes(10_000))
    with pytest.raises(images_module.BadImage, match="file of over"):
        reading._read(stream, 10, 100)
    assert stream.tell() == 1100
    assert len(reading._read(io.BytesIO(bytes(1000)), 1000, 100)) == 1000


def test_large_and_special_files_of_a_folder_are_listed(tmp_path, monkeypatch):
    fill(tmp_path, 40)
    (tmp_path / "large.png").write_bytes(bytes(2**20 + 1))
    (tmp_path / "device.png").symlink_to("/dev/zero")
    monkeypatch.setattr(reading, "MAX_FILE_BYTES", 2**20)
    (note,) = load(str(tmp_path), resolution=8).notes
    assert "large.png: file of over 1 MiB" in note
    assert "device.png: no regular file" in note


def test_pixels_in_memory_are_bounded(tmp_path, monkeypatch):
    fill(tmp_path, 40, resolution=32)
    lock, now, most = threading.Lock(), 0, 0
    square = images_module.to_square

    def counted(image, *rest):
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        threading.Event().wait(0.01)
        try:
            return square(image, *rest)
        finally:
            with lock:
                now -= 1

    monkeypatch.setattr(images_module, "to_square", counted)
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    for pixels, threads in ((32 * 32 * 2, 2), (100, 1)):
        monkeypatch.setattr(reading, "MAX_PIXELS", pixels)
        most = 0
        assert load(str(tmp_path), resolution=8).images[:, 0, 0, 0].tolist() == list(range(40))
        assert most == threads


def test_bytes_in_memory_are_bounded(tmp_path, monkeypatch):
    fill(tmp_path, 40)
    size = (tmp_path / "0000.png").stat().st_size
    monkeypatch.setattr(reading, "_BYTES_AT_ONCE", 5 * size)
    monkeypatch.setattr(reading, "MAX_FILE_BYTES", 2 * size)
    ahead, most = 0, 0

    def read(entry):
        nonlocal ahead, most
        ahead += 1
        most = max(most, ahead)
        return (tmp_path / entry).read_bytes()

    for _ in reading.decode_in_order(sorted(p.name for p in tmp_path.iterdir()), read, 8, 3):
        ahead -= 1
    assert 3 <= most <= 5
    assert ahead == 0


def test_files_that_are_no_images_are_not_kept_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "MAX_FILE_BYTES", 2**20)
    monkeypatch.setattr(reading, "_BYTES_AT_ONCE", 4 * 2**20)
    for i in range(40):
        (tmp_path / f"{i}.png").write_bytes(bytes(2**20))
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match="40 of 40"):
            load(str(tmp_path), resolution=8)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 20 * 2**20


def test_not_a_zip(tmp_path):
    path = tmp_path / "set.zip"
    path.write_bytes(b"PK nothing")
    with pytest.raises(DataError, match="neither a folder nor a readable zip"):
        load(str(path), resolution=8)


def test_small_images(tmp_path):
    fill(tmp_path, 3)
    with pytest.raises(DataError, match="ask for 8 or less"):
        load(str(tmp_path), resolution=16)
    fill(tmp_path, 1, resolution=20, start=3)
    data = load(str(tmp_path), resolution=16)
    assert len(data) == 4
    assert "3 of 4 images are smaller than 16" in data.notes[0]
    assert data.labels is None


def test_empty_folder(tmp_path):
    with pytest.raises(DataError, match="no image files"):
        load(str(tmp_path), resolution=8)


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
