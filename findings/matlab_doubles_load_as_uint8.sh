#!/usr/bin/env bash
# Surprise: MATLAB stores a double matrix of whole numbers in the smallest type that holds them, and scipy's loadmat
# returns that type: a `double` becomes uint8, or int16 with one negative value. Differences and products then wrap.
# Version: scipy 1.17.1; whosmat() of the same file says "double".
# Why it matters: word counts and tags are such matrices; 5 - 6 is 255, so the nearest sample ranks last.
# Instead: loadmat(file, mat_dtype=True), or convert each feature matrix to float at once.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv || exit 2
venv/bin/pip install --quiet --disable-pip-version-check 'scipy==1.17.1' 'numpy==2.4.6' || exit 2
venv/bin/python - <<'PY'
import pathlib
import struct
import sys

import numpy as np
import scipy.io


def element(kind, data):
    return struct.pack("<II", kind, len(data)) + data + bytes(-len(data) % 8)


# As MATLAB writes `counts = [5 5; 6 5; 1 1]`: class double (6), values stored as miUINT8 (2), columns first.
counts = np.array([[5, 5], [6, 5], [1, 1]])
parts = [(6, struct.pack("<II", 6, 0)), (5, struct.pack("<ii", 3, 2)), (1, b"counts"), (2, bytes([5, 6, 1, 5, 5, 1]))]
matrix = element(14, b"".join(element(*part) for part in parts))
pathlib.Path("a.mat").write_bytes(b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack("<H2s", 0x0100, b"IM") + matrix)

print("scipy", scipy.__version__, "whosmat", scipy.io.whosmat("a.mat"))
seen = {}
for mat_dtype in (False, True):
    loaded = scipy.io.loadmat("a.mat", mat_dtype=mat_dtype)["counts"]
    distances = np.abs(loaded[0] - loaded).sum(1)  # from sample 0; right: 0, 1, 8
    seen[mat_dtype] = (str(loaded.dtype), distances.tolist(), (loaded == counts).all())
    print(f"mat_dtype={mat_dtype}: {loaded.dtype}, distances from sample 0: {distances.tolist()}")
as_before = seen == {False: ("uint8", [0, 255, 8], True), True: ("float64", [0, 1, 8], True)}
print("As described." if as_before else "The behaviour has changed.")
sys.exit(0 if as_before else 1)
PY
