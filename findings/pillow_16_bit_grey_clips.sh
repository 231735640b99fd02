#!/usr/bin/env bash
# Surprise: Pillow turns a 16-bit greyscale image to 8 bits ("L", "RGB") by cutting at 255, not by scaling: a depth map in
# millimetres, or a 16-bit scan, becomes white all over but for its darkest pixels. There is no warning.
# Version: Pillow 13.0.0 with numpy 2.4.6.
# Why it matters: loaders of images call convert("RGB") on every file. Depth maps and medical images then carry next to
# nothing, and the frozen network gives nearly the same features for all of them.
# Instead: where the mode begins with "I", scale the numbers by the range that they mean before converting.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv || exit 2
venv/bin/pip install --quiet --disable-pip-version-check 'pillow==13.0.0' 'numpy==2.4.6' || exit 2
cat > grey.py <<'PY'
import io
import sys

import numpy as np
import PIL
from PIL import Image

print("Pillow", PIL.__version__)
file = io.BytesIO()
Image.fromarray(np.array([[0, 100, 255, 256, 1500, 30000, 65535]], dtype=np.uint16)).save(file, "PNG")
image = Image.open(file)
grey, colour = np.array(image.convert("L"))[0].tolist(), np.array(image.convert("RGB"))[0, :, 0].tolist()
print("mode", image.mode, np.array(image)[0].tolist())
print('convert("L")  ', grey)
print('convert("RGB")', colour)
sys.exit(not (image.mode == "I;16" and grey == colour == [0, 100, 255, 255, 255, 255, 255]))
PY
if venv/bin/python grey.py; then
  echo "As described."
else
  echo "The behaviour has changed."
  exit 1
fi
