"""Image files to RGB bytes, the same pixels whatever the file holds.

JPEGs with one or three components go through OpenCV, which is faster; everything else goes
through Pillow. Rules: alpha is dropped, not blended; a palette becomes its colours; 16 bits
become 8 as round(value / 257); CMYK is converted as Pillow does. Pixel types without an agreed
range (float, 32-bit integers above 65535) are refused.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from detcli.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image

    Pixels = NDArray[np.uint8]

ORIENTATION_TAG = 0x0112
SWAPS_SIDES = (5, 6, 7, 8)
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".gif")
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_BARE_MARKERS = frozenset({0x01, *range(0xD0, 0xD9)})


class ImageHeader(NamedTuple):
    """What a file says about its image before any pixel is decoded.

    height, width: pixels as stored; orientation: EXIF code 1..8, 1 = as stored.
    """

    height: int
    width: int
    orientation: int

    @property
    def upright(self) -> tuple[int, int]:
        """(height, width) after the EXIF orientation is applied."""
        if self.orientation in SWAPS_SIDES:
            return self.width, self.height
        return self.height, self.width


class _JpegLayout(NamedTuple):
    components: int
    frame_at: int
    has_metadata: bool


def read_bytes(path: str) -> bytes:
    """The file's content; DataError if it cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise DataError(f"{path}: cannot be read: {reason}") from error


def read_header(path: str) -> ImageHeader:
    """Size and orientation from the header; DataError if the file is no image we can decode."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            if image.mode == "F":
                raise DataError("pixels are floating-point numbers without a known range")
            return ImageHeader(image.height, image.width, _orientation(image))
    except DataError:
        raise
    except FileNotFoundError as error:
        raise DataError("no such file") from error
    except Exception as error:  # decoders raise many types on broken input
        raise DataError(f"not a readable image ({type(error).__name__})") from error


def read_image(path: str, *, apply_exif: bool = True) -> Pixels:
    """Decode a file to (H, W, 3) uint8 RGB; DataError naming the file if that fails."""
    try:
        return decode_image(read_bytes(path), apply_exif=apply_exif)
    except DataError as error:
        message = str(error)
        raise DataError(message if path in message else f"{path}: {message}") from error


def decode_image(data: bytes, *, apply_exif: bool = True) -> Pixels:
    """Decode an encoded image to contiguous (H, W, 3) uint8 RGB.

    apply_exif turns the image upright by its EXIF orientation. A file that ends early is an
    error, never a picture with a grey rest. Raises DataError.
    """
    try:
        pixels = _decode_jpeg(data, apply_exif)
        if pixels is None:
            pixels = _decode_any(data, apply_exif)
    except DataError:
        raise
    except Exception as error:  # decoders raise many types on broken input
        raise DataError(f"image cannot be decoded: {_first_line(error)}") from error
    return pixels


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def _decode_jpeg(data: bytes, apply_exif: bool) -> Pixels | None:
    """The fast path; None where Pillow has to decide."""
    import cv2

    layout = _jpeg_layout(data)
    if layout is None or layout.components not in (1, 3):
        return None
    # Entropy-coded data never holds an end marker, so one behind the frame header means that
    # the file is whole. OpenCV alone would fill the missing part with grey.
    if data.rfind(b"\xff\xd9") < layout.frame_at:
        return None
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    pixels: Any = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if pixels is None:
        return None
    cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB, dst=pixels)
    if apply_exif and layout.has_metadata:
        from PIL import Image

        with Image.open(io.BytesIO(data)) as image:
            return _turn(pixels, _orientation(image))
    return pixels  # type: ignore[no-any-return]


def _jpeg_layout(data: bytes) -> _JpegLayout | None:
    """Walk the marker segments up to the frame header; None if this is no 8-bit JPEG."""
    if data[:2] != b"\xff\xd8":
        return None
    at, has_metadata = 2, False
    while at + 9 < len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
        elif marker in _BARE_MARKERS:
            at += 2
        elif marker in _START_OF_FRAME:
            return _JpegLayout(data[at + 9], at, has_metadata) if data[at + 4] == 8 else None
        else:
            has_metadata |= marker == 0xE1
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return None


def _decode_any(data: bytes, apply_exif: bool) -> Pixels:
    from PIL import Image

    with Image.open(io.BytesIO(data)) as image:
        orientation = _orientation(image) if apply_exif else 1
        pixels = _deep_png(data) if _is_deep_png(data) else _to_rgb(image)
    return _turn(pixels, orientation)


def _orientation(image: Image.Image) -> int:
    from PIL import Image

    if image.format == "TIFF":  # Pillow turns these itself
        return 1
    try:
        # The base method: PNG's own would decode the whole image to look for a late EXIF chunk.
        value = Image.Image.getexif(image).get(ORIENTATION_TAG, 1)
    except Exception:  # broken metadata does not make the picture unreadable
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _turn(pixels: Pixels, orientation: int) -> Pixels:
    """Apply an EXIF orientation code."""
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def _is_deep_png(data: bytes) -> bool:
    return data[:8] == b"\x89PNG\r\n\x1a\n" and data[24:25] == b"\x10"


def _deep_png(data: bytes) -> Pixels:
    """16-bit PNGs: Pillow would cut colour to its upper byte."""
    import cv2

    pixels: Any = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise DataError("image cannot be decoded: broken 16-bit PNG")
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[:, :, None], 3, axis=2)
    return _to_8_bits(pixels[:, :, 2::-1])


def _to_8_bits(values: NDArray[Any]) -> Pixels:
    return np.ascontiguousarray((values.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _to_rgb(image: Image.Image) -> Pixels:
    if image.mode == "I" or image.mode.startswith("I;16"):
        values = np.asarray(image)
        if values.size and (values.min() < 0 or values.max() > 65535):
            raise DataError("pixels are 32-bit integers beyond 0..65535: no known range")
        return np.repeat(_to_8_bits(values)[:, :, None], 3, axis=2)
    if image.mode == "F":
        raise DataError("pixels are floating-point numbers without a known range")
    if image.mode in ("P", "PA"):  # through RGBA, which keeps the colours of transparent entries
        image = image.convert("RGBA")
    return np.array(image.convert("RGB"))  # writable, as torch wants it
