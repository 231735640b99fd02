#!/usr/bin/env bash
# Surprise: `safetensors.numpy.save` writes the memory of an array as it lies, under the shape that the array has: a
# transposed matrix, every other column, or what PCA returns comes back with its numbers in other places. There is no
# error. `safetensors.torch.save` refuses the same tensor, and NumPy's own `save` keeps its values.
# Version: safetensors 0.8.0 with numpy 2.4.6; release 0.7.0 keeps the values, both are run.
# Why it matters: features of MATLAB files and projections of scikit-learn are in Fortran order. They load with the right
# shape, and retrieval with them is at chance level.
# Instead: numpy.ascontiguousarray before saving, and compare what was read with what was written once.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
cat > strides.py <<'PY'
import numpy as np
import safetensors
from safetensors.numpy import load, save

features = np.arange(6, dtype=np.float32).reshape(3, 2)
forms = {"as read": features, "Fortran order": np.asfortranarray(features), "every other row": np.repeat(features, 2, 0)[::2]}
kept = [name for name, form in forms.items() if np.array_equal(load(save({"x": form}))["x"], form)]
print(f"safetensors {safetensors.__version__} keeps: {', '.join(kept)}")
print("saved in Fortran order, read:", load(save({"x": forms["Fortran order"]}))["x"].tolist(), "of", features.tolist())
PY
for version in 0.7.0 0.8.0; do
  python3 -m venv "venv$version" || exit 2
  "venv$version/bin/pip" install --quiet --disable-pip-version-check "safetensors==$version" 'numpy==2.4.6' || exit 2
  "venv$version/bin/python" strides.py | tee "said$version"
done
if grep -q 'keeps: as read, Fortran order, every other row$' said0.7.0 && grep -q 'keeps: as read$' said0.8.0; then
  echo "As described."
else
  echo "The behaviour has changed."
  exit 1
fi
