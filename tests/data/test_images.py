"""Every kind of file must come out as the same RGB picture. Pillow's own decoding is the peer."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from detcli.data.images import decode_image, read_header
from detcli.errors import DataError

HEIGHT, WIDTH = 37, 53


def picture() -> Image.Image:
    coarse = np.random.default_rng(3).integers(0, 255, (5, 6, 3)).astype(np.uint8)
    return Image.fromarray(coarse).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)


def encode(image: Image.Image, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def largest_difference(a: Any, b: Any) -> int:
    return int(np.abs(np.asarray(a).astype(int) - np.asarray(b).astype(int)).max())


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg_equals_pillow(subsampling: int, progressive: bool) -> None:
    data = encode(picture(), "JPEG", subsampling=subsampling, progressive=progressive)
    decoded = decode_image(data)
    assert (decoded.shape, decoded.dtype) == ((HEIGHT, WIDTH, 3), np.uint8)
    assert decoded.flags["C_CONTIGUOUS"]
    assert largest_difference(decoded, Image.open(io.BytesIO(data))) <= 1


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF", "WEBP", "PPM"])
def test_lossless_formats_are_exact(format: str) -> None:
    options = {"lossless": True} if format == "WEBP" else {}
    assert largest_difference(decode_image(encode(picture(), format, **options)), picture()) == 0


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_grey_has_three_equal_channels(format: str) -> None:
    grey = picture().convert("L")
    decoded = decode_image(encode(grey, format))
    assert np.ptp(decoded, axis=2).max() == 0
    assert largest_difference(decoded[:, :, 0], grey) <= 8  # JPEG loses a little


def test_one_bit_image() -> None:
    bits = picture().convert("1")
    assert set(np.unique(decode_image(encode(bits, "PNG")))) == {0, 255}


def test_palette_gives_its_colours() -> None:
    palette = picture().quantize(16)
    assert largest_difference(decode_image(encode(palette, "PNG")), palette.convert("RGB")) == 0


def test_palette_with_transparency_keeps_the_colours_below() -> None:
    palette = picture().quantize(16)
    data = encode(palette, "PNG", transparency=bytes([0, 128] + [255] * 14))
    assert largest_difference(decode_image(data), palette.convert("RGB")) == 0


@pytest.mark.parametrize(("mode", "format"), [("RGBA", "PNG"), ("LA", "PNG"), ("RGBA", "WEBP")])
def test_alpha_is_dropped(mode: str, format: str) -> None:
    image = picture().convert(mode)
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    options = {"lossless": True, "exact": True} if format == "WEBP" else {}
    expected = image.getchannel("L") if mode == "LA" else image
    decoded = decode_image(encode(image, format, **options))
    reference = np.asarray(expected)
    reference = reference[:, :, :3] if reference.ndim == 3 else reference[:, :, None]
    assert largest_difference(decoded, reference) == 0


def test_cmyk_jpeg_shows_its_colours() -> None:
    solid = Image.new("RGB", (32, 32), (200, 40, 90))
    decoded = decode_image(encode(solid.convert("CMYK"), "JPEG", quality=95))
    assert largest_difference(decoded, solid) <= 6


def test_16_bit_grey_is_scaled_and_rounded() -> None:
    values = np.array([[0, 128, 129, 257, 32768, 65535]], np.uint16)
    decoded = decode_image(encode(Image.fromarray(values), "PNG"))
    assert decoded[0, :, 0].tolist() == [0, 0, 1, 1, 128, 255]
    assert decode_image(encode(Image.fromarray(values), "TIFF"))[0, :, 0].tolist() == [
        0,
        0,
        1,
        1,
        128,
        255,
    ]


def test_16_bit_colour_png_is_scaled_and_rounded() -> None:
    import cv2

    bgr = np.zeros((1, 2, 3), np.uint16)
    bgr[0, 0] = (257 * 10 + 200, 257 * 20, 257 * 30)
    ok, data = cv2.imencode(".png", bgr)
    assert ok
    assert decode_image(data.tobytes())[0, 0].tolist() == [30, 20, 11]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation_equals_pillow(orientation: int, format: str, tmp_path: Any) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(picture(), format, exif=exif)
    with Image.open(io.BytesIO(data)) as stored:
        expected = ImageOps.exif_transpose(stored).convert("RGB")
    decoded = decode_image(data)
    assert decoded.shape[:2] == (expected.height, expected.width)
    assert largest_difference(decoded, expected) <= 1
    (tmp_path / "x").write_bytes(data)
    assert read_header(str(tmp_path / "x")).upright == decoded.shape[:2]


def test_exif_can_be_left_unapplied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encode(picture(), "JPEG", exif=exif)
    assert decode_image(data, apply_exif=False).shape == (HEIGHT, WIDTH, 3)
    assert decode_image(data, apply_exif=True).shape == (WIDTH, HEIGHT, 3)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_broken_exif_does_not_hide_the_picture() -> None:
    data = encode(picture(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff rubbish")
    assert decode_image(data).shape == (HEIGHT, WIDTH, 3)


def _truncate(data: bytes) -> bytes:
    return data[: len(data) * 2 // 3]


@pytest.mark.parametrize(
    ("format", "spoil"),
    [
        ("JPEG", _truncate),
        ("PNG", _truncate),
        ("WEBP", _truncate),
        ("JPEG", lambda data: data[:30]),
        ("PNG", lambda data: data[:10]),
        ("PNG", lambda _: b""),
        ("PNG", lambda _: b"GIF89a"),
        ("JPEG", lambda _: b"\xff\xd8\xff\xe0"),
    ],
)
def test_broken_files_are_errors_of_one_line(format: str, spoil: Callable[[bytes], bytes]) -> None:
    with pytest.raises(DataError) as caught:
        decode_image(spoil(encode(picture(), format)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("mode", ["F", "I"])
def test_pixel_types_without_a_range_are_refused(mode: str) -> None:
    values = np.array([[1e6, 2e6]]).astype(np.float32 if mode == "F" else np.int32)
    with pytest.raises(DataError, match="known range"):
        decode_image(encode(Image.fromarray(values), "TIFF"))


def test_a_truncated_jpeg_never_reaches_a_decoder_that_fills_it_with_grey(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """OpenCV before 5 does so; no version may get the chance. The end marker of a thumbnail in
    the metadata must not pass for the end of the picture."""
    import cv2

    thumbnail = encode(picture().resize((16, 16)), "JPEG")
    whole = encode(picture(), "JPEG", exif=Image.Exif().tobytes() + thumbnail)
    assert whole.count(b"\xff\xd9") == 2
    grey = np.full((HEIGHT, WIDTH, 3), 128, np.uint8)
    monkeypatch.setattr(cv2, "imdecode", lambda *_: grey.copy())
    assert np.array_equal(decode_image(whole), grey)  # the fast path is the one that is replaced
    with pytest.raises(DataError):
        decode_image(whole[:-100])
