#!/usr/bin/env bash
# Surprise: a 16-bit RGB PNG may name one colour as transparent (chunk tRNS). Pillow reduces its pixels to their high
# bytes, but compares them with the LOW bytes of that colour: the transparent pixel stays, another one disappears.
# Version: Pillow 13.0.0. (White, 65535, has equal bytes: a test with a white background does not notice.)
# Why it matters: code that lays pictures on white before a network sees them erases the wrong parts.
# Instead: refuse, or read with a 16-bit decoder, a PNG with "transparency" in .info whose .tile names "RGB;16B"
# before load(). Or export pictures with an alpha channel.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv || exit 2
venv/bin/pip install --quiet --disable-pip-version-check 'pillow==13.0.0' || exit 2
venv/bin/python - <<'PY'
import io
import struct
import sys
import zlib

import PIL
from PIL import Image


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def alphas(grey, transparent):
    """Return the alpha of each pixel of a 16-bit RGB PNG with one row of these grey values."""
    row = b"\0" + b"".join(struct.pack(">3H", value, value, value) for value in grey)
    header = struct.pack(">IIBBBBB", len(grey), 1, 16, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"tRNS", struct.pack(">3H", *[transparent] * 3)), (b"IDAT", zlib.compress(row))]
    image = Image.open(io.BytesIO(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*c) for c in chunks) + chunk(b"IEND", b"")))
    print("info", image.info, "tile", image.tile[0].args, "has_transparency_data", image.has_transparency_data)
    return [image.convert("RGBA").getpixel((column, 0))[3] for column in range(len(grey))]


print("Pillow", PIL.__version__)
seen = alphas([0x1234, 0x3400], 0x1234)
print(f"transparent 0x1234: alpha of pixels 0x1234, 0x3400 is {seen}; the PNG standard says [0, 255]")
as_before = seen == [255, 0]
print("As described." if as_before else "The behaviour has changed.")
sys.exit(0 if as_before else 1)
PY
