#!/usr/bin/env bash
# Surprise: jsonargparse's parse_object converts lists and dicts inside the object that it is given in place: texts in
# your own dict become numbers, even when the object is refused. Values outside a list or dict stay as they were.
# Version: jsonargparse 4.53.0, the parser behind Lightning's command line.
# Why it matters: a settings dict kept as the record of a run, hashed, or tried on several models is no longer the
# one that the user wrote, and an error message that quotes it quotes a list that is half converted.
# Instead: parser.parse_object(copy.deepcopy(settings)).
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv || exit 2
venv/bin/pip install --quiet --disable-pip-version-check 'jsonargparse==4.53.0' || exit 2
venv/bin/python - <<'PY'
import sys

import jsonargparse

print("jsonargparse", jsonargparse.__version__)
parser = jsonargparse.ArgumentParser(exit_on_error=False)
parser.add_argument("--rate", type=float)
parser.add_argument("--scales", type=list[float])
parser.add_argument("--weights", type=dict[str, float])

accepted = {"rate": "1e-3", "scales": ["1", "1e-3"], "weights": {"image": "2"}}
parsed = parser.parse_object(accepted)
print("accepted, now", accepted)
refused = {"scales": ["1", "2", "wide", "4"]}
try:
    parser.parse_object(refused)
    sys.exit("The behaviour has changed: 'wide' is a float.")
except jsonargparse.ArgumentError:
    print("refused, now ", refused)

as_before = accepted == {"rate": "1e-3", "scales": [1.0, 0.001], "weights": {"image": 2.0}}
as_before = as_before and refused == {"scales": [1.0, 2.0, "wide", "4"]} and parsed.rate == 0.001
print("As described." if as_before else "The behaviour has changed.")
sys.exit(0 if as_before else 1)
PY
