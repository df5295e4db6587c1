"""Draw the sample images of `examples/image_pipeline.py`.

Every picture is computed from fixed seeds, so a second run draws the same pixels.

    python scripts/make_images.py            # write examples/images/*.png
    python scripts/make_images.py --check    # compare them with what would be written
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Floats = NDArray[np.float64]
Pixels = NDArray[np.uint8]

DEFAULT_DIR = Path(__file__).resolve().parent.parent / "examples" / "images"
HEIGHT, WIDTH = 480, 640
# Few distinct levels keep the noisy pictures small on disk.
LEVELS = 128
# Another CPU may round a sine the other way, which moves single pixels by one level.
TOLERANCE = 0.5


def coordinates(height: int = HEIGHT, width: int = WIDTH) -> tuple[Floats, Floats]:
    """Return x and y from 0 to 1 for each pixel."""
    y, x = np.mgrid[0:height, 0:width]
    return x / (width - 1), y / (height - 1)


def fractal_noise(seed: int, octaves: int, height: int = HEIGHT, width: int = WIDTH) -> Floats:
    """Return noise from 0 to 1: random lattices, each twice as fine and half as strong."""
    # RandomState's stream is frozen by NumPy's compatibility policy; default_rng's is not.
    random = np.random.RandomState(seed)
    x, y = coordinates(height, width)
    total = np.zeros((height, width))
    for octave in range(octaves):
        cells = 3 * 2**octave
        lattice = random.random_sample((cells + 2, cells + 2))
        column, row = (x * cells).astype(int), (y * cells).astype(int)
        fx, fy = x * cells - column, y * cells - row
        fx, fy = fx * fx * (3 - 2 * fx), fy * fy * (3 - 2 * fy)
        upper = lattice[row, column] * (1 - fx) + lattice[row, column + 1] * fx
        lower = lattice[row + 1, column] * (1 - fx) + lattice[row + 1, column + 1] * fx
        total += (upper * (1 - fy) + lower * fy) / 2**octave
    return (total - total.min()) / (total.max() - total.min())


def palette(value: Floats, *stops: tuple[int, int, int]) -> Pixels:
    """Colour values from 0 to 1 by the evenly spaced stops, in LEVELS steps."""
    stepped = np.round(np.clip(value, 0, 1) * (LEVELS - 1)) / (LEVELS - 1)
    positions = np.linspace(0, 1, len(stops))
    channels = [np.interp(stepped, positions, channel) for channel in np.array(stops).T]
    return np.stack(channels, axis=-1).round().astype(np.uint8)


def gradient() -> Pixels:
    """Smooth ramps in each channel: shows banding."""
    x, y = coordinates()
    red, green, blue = x, y, 1 - (x + y) / 2
    return (np.stack([red, green, blue], axis=-1) * 255).round().astype(np.uint8)


def clouds() -> Pixels:
    """Fractal noise: detail at every scale."""
    return palette(fractal_noise(seed=11, octaves=6), (28, 62, 120), (120, 160, 205), (255, 252, 245))


def mandelbrot() -> Pixels:
    """The Mandelbrot set: hard edges and fine filaments."""
    x, y = coordinates()
    c = (x * 3.2 - 2.3) + 1j * (y - 0.5) * 2.4
    z = np.zeros_like(c)
    escaped = np.zeros(c.shape)
    alive = np.ones(c.shape, dtype=bool)
    for step in range(1, 121):
        z[alive] = z[alive] ** 2 + c[alive]
        leaving = alive & (np.abs(z) > 2)
        escaped[leaving] = step
        alive &= ~leaving
    value = np.where(alive, 0.0, np.log1p(escaped) / np.log(121))
    return palette(value, (0, 4, 24), (20, 60, 160), (240, 250, 255), (255, 160, 0), (90, 10, 0))


def terrain() -> Pixels:
    """Hills under an evening sky: dark and bright parts in one picture."""
    x, y = coordinates()
    sky = palette(y * 1.4, (24, 36, 92), (150, 90, 120), (255, 190, 110))
    sun = (x - 0.7) ** 2 * (WIDTH / HEIGHT) ** 2 + (y - 0.38) ** 2 < 0.003
    sky[sun] = (255, 246, 214)
    for layer in range(4):
        ridge = fractal_noise(seed=30 + layer, octaves=7, height=8)[4]
        covered = y > 0.5 + 0.13 * layer - 0.22 * (ridge - 0.5)
        sky[covered] = np.array([70, 60, 82]) // (layer + 1) + np.array([4, 8, 10])
    return sky


def test_chart() -> Pixels:
    """Colour bars, a grey ramp, a Siemens star and line pairs of falling width."""
    x, y = coordinates()
    low, high = 16, 235
    # white, yellow, cyan, green, magenta, red, blue, black
    order = [(1, 1, 1), (1, 1, 0), (0, 1, 1), (0, 1, 0), (1, 0, 1), (1, 0, 0), (0, 0, 1), (0, 0, 0)]
    bars = np.where(np.array(order) == 1, high, low)
    chart = bars[(x * 7.999).astype(int)].astype(np.uint8)
    ramp = (np.floor(x * 32) / 31 * 255).clip(0, 255).astype(np.uint8)
    lines = np.where(np.sin(2 * np.pi * 8 * (np.exp2(x * 4) - 1)) > 0, 255, 0).astype(np.uint8)
    chart = np.where((y > 0.72)[..., None], ramp[..., None], chart)
    chart = np.where((y > 0.86)[..., None], lines[..., None], chart)
    dx, dy = (x - 0.5) * WIDTH, (y - 0.36) * HEIGHT
    star = np.where(np.sin(36 * np.arctan2(dy, dx)) > 0, 255, 0).astype(np.uint8)
    inside = np.hypot(dx, dy) < 0.3 * HEIGHT
    return np.where(inside[..., None], star[..., None], chart)


PICTURES: dict[str, Callable[[], Pixels]] = {
    "clouds": clouds,
    "gradient": gradient,
    "mandelbrot": mandelbrot,
    "terrain": terrain,
    "test_chart": test_chart,
}


def difference(path: Path, pixels: Pixels) -> float:
    """Return the mean difference of a file from the pixels, in levels of 255."""
    with Image.open(path) as image:
        stored = np.asarray(image.convert("RGB")).astype(np.int64)
    if stored.shape != pixels.shape:
        raise ValueError(f"{path.name} is {stored.shape}, the drawing is {pixels.shape}")
    return float(np.abs(stored - pixels).mean())


def main() -> int:
    """Write the pictures, or compare them with those on disk."""
    parser = argparse.ArgumentParser(description="Draw the sample images of the examples.")
    parser.add_argument("--out", type=Path, default=DEFAULT_DIR, help="folder of the images")
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    options = parser.parse_args()
    failed = False
    for name, draw in PICTURES.items():
        path: Path = options.out / f"{name}.png"
        pixels = draw()
        if options.check:
            found = difference(path, pixels)
            failed |= found > TOLERANCE
            print(f"{name}: mean difference {found:.4f} levels")
        else:
            options.out.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path, optimize=True)
            print(f"{name}: {pixels.shape[1]} x {pixels.shape[0]}, {path.stat().st_size:,} bytes")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
