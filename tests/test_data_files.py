"""Folders and zip files of images: labels, damaged and hostile members, what stays in memory."""

import io
import struct
import threading
import tracemalloc
import zipfile

import pytest
from data_support import Image, bomb, fill, noise_png, png

from gankernels.data import images as images_module
from gankernels.data import load, reading
from gankernels.errors import DataError


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


def test_empty_folder(tmp_path):
    with pytest.raises(DataError, match="no image files"):
        load(str(tmp_path), resolution=8)
