"""Develop a folder of pictures: linear light, white balance, sharpening, local contrast, tone map.

Written as most people write NumPy: one expression a step, each with its temporaries.

    python examples/image_pipeline.py
    python examples/image_pipeline.py --rounds 3 --size 1280

Needs numpy and pillow.
"""

from __future__ import annotations

import argparse
import sys
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Floats = NDArray[np.float32]
Pixels = NDArray[np.uint8]

DEFAULT_DIR = Path(__file__).resolve().parent / "images"
DEFAULT_ROUNDS = 30
# How much of red, green and blue makes up luminance (Rec. 709).
LUMINANCE = (0.2126, 0.7152, 0.0722)
# Linear light of each 8-bit sRGB value.
SRGB = np.arange(256) / 255
DECODE = np.where(SRGB <= 0.04045, SRGB / 12.92, ((SRGB + 0.055) / 1.055) ** 2.4).astype(np.float32)


@dataclass(frozen=True)
class Look:
    """What one round does to a picture."""

    exposure: float
    sharpness: float
    contrast: float


@dataclass(frozen=True)
class Report:
    """Figures of one developed picture."""

    name: str
    width: int
    height: int
    mean: float
    spread: float
    low: int
    median: int
    high: int
    checksum: int

    def __str__(self) -> str:
        return (
            f"{self.name:<11} {self.width} x {self.height}"
            f"  mean {self.mean:6.2f}  spread {self.spread:6.2f}"
            f"  p1/p50/p99 {self.low:3}/{self.median:3}/{self.high:3}"
            f"  crc32 {self.checksum:08x}"
        )


def load(path: Path, size: int | None) -> Pixels:
    """Read a picture as RGB, scaled so that its longer side is `size` pixels."""
    with Image.open(path) as image:
        picture = image.convert("RGB")
    if size is not None:
        scale = size / max(picture.size)
        width, height = (max(1, round(side * scale)) for side in picture.size)
        picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(picture)


def luminance(light: Floats) -> Floats:
    """Return the brightness of each pixel."""
    red, green, blue = LUMINANCE
    return light[..., 0] * red + light[..., 1] * green + light[..., 2] * blue


def smooth_rows(values: Floats) -> Floats:
    """Weigh each row and its neighbours by 1 4 6 4 1; the edge rows are repeated."""
    edged = np.pad(values, [(2, 2)] + [(0, 0)] * (values.ndim - 1), mode="edge")
    return (edged[:-4] + edged[4:] + 4 * (edged[1:-3] + edged[3:-1]) + 6 * edged[2:-2]) / 16


def blur(values: Floats) -> Floats:
    """Smooth in both directions."""
    return smooth_rows(smooth_rows(values).swapaxes(0, 1)).swapaxes(0, 1)


def white_balance(light: Floats, exposure: float) -> Floats:
    """Scale the channels to one mean (grey world), half of the way, then expose."""
    means = light.mean(axis=(0, 1))
    gains = np.sqrt(means.mean() / np.maximum(means, 1e-6))
    return light * gains * exposure


def sharpen(light: Floats, amount: float) -> Floats:
    """Unsharp mask: add what a blur takes away."""
    detail = light - blur(light)
    return np.maximum(light + amount * detail, 0)


def local_contrast(light: Floats, amount: float) -> Floats:
    """Raise each pixel's brightness away from that of its surroundings."""
    bright = luminance(light)
    around = blur(blur(blur(bright)))
    ratio = (bright + 0.01) / (around + 0.01)
    gain = 1 + amount * (ratio - 1) / (1 + np.abs(ratio - 1))
    return light * gain[..., np.newaxis]


def tone_map(light: Floats) -> Floats:
    """Compress the highlights into 0 to 1 (the filmic curve of K. Narkowicz)."""
    curve = light * (2.51 * light + 0.03) / (light * (2.43 * light + 0.59) + 0.14)
    return np.clip(curve, 0, 1)


def saturate(light: Floats, amount: float) -> Floats:
    """Move the colours away from their grey."""
    grey = luminance(light)[..., np.newaxis]
    return np.clip(grey + (light - grey) * amount, 0, 1)


def encode(light: Floats) -> Pixels:
    """Return 8-bit pixels; a square root stands in for the sRGB curve."""
    return (np.sqrt(light) * 255 + 0.5).astype(np.uint8)


def develop(pixels: Pixels, look: Look) -> Pixels:
    """Run the whole pipeline on one picture."""
    light = DECODE[pixels]
    light = white_balance(light, look.exposure)
    light = sharpen(light, look.sharpness)
    light = local_contrast(light, look.contrast)
    light = tone_map(light)
    light = saturate(light, 1.15)
    return encode(light)


def measure(name: str, pixels: Pixels) -> Report:
    """Return statistics and a checksum of a developed picture."""
    bright = luminance(pixels.astype(np.float32))
    counts, _ = np.histogram(bright, bins=256, range=(0, 256))
    reached = np.cumsum(counts) / bright.size
    low, median, high = (int(np.searchsorted(reached, share)) for share in (0.01, 0.5, 0.99))
    height, width = pixels.shape[:2]
    mean, spread = float(bright.mean()), float(bright.std())
    checksum = zlib.crc32(pixels.tobytes())
    return Report(name, width, height, mean, spread, low, median, high, checksum)


def summary(reports: list[Report]) -> str:
    """Return one round's mean brightness and the checksum of all its pictures."""
    mean = sum(report.mean for report in reports) / len(reports)
    checksum = zlib.crc32(b"".join(report.checksum.to_bytes(4, "big") for report in reports))
    return f"mean {mean:6.2f}  crc32 {checksum:08x}"


def positive(text: str) -> int:
    """Parse a command-line number that must be 1 or more."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, not {value}")
    return value


def main() -> int:
    """Develop every picture in every round, and print what came out."""
    parser = argparse.ArgumentParser(description="Develop a folder of pictures with NumPy.")
    parser.add_argument("--images", type=Path, default=DEFAULT_DIR, help="folder of PNG files")
    parser.add_argument(
        "--rounds",
        type=positive,
        default=DEFAULT_ROUNDS,
        help="how often to go through the folder, each time more exposed (default: %(default)s)",
    )
    parser.add_argument("--size", type=positive, help="longer side in pixels (default: as stored)")
    options = parser.parse_args()
    paths = sorted(options.images.glob("*.png"))
    if not paths:
        parser.error(f"no PNG files in {options.images}")
    pictures = {path.stem: load(path, options.size) for path in paths}
    reports: list[Report] = []
    for number in range(1, options.rounds + 1):
        part = number / options.rounds
        look = Look(exposure=0.8 + 0.8 * part, sharpness=0.4 + part, contrast=0.2 + 0.5 * part)
        reports = [measure(name, develop(pixels, look)) for name, pixels in pictures.items()]
        print(f"round {number}: exposure {look.exposure:.3f}  {summary(reports)}")
    print("the last round:")
    for report in reports:
        print(f"  {report}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
