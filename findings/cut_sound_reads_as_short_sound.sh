#!/usr/bin/env bash
# Surprise: soundfile reads a sound file that was cut off (a broken download) as a shorter sound, without an error
# or a Python warning, for WAV, AIFF, Ogg and MP3. Only FLAC fails. Pillow, in contrast, refuses such a picture.
# Version: soundfile 0.14.0 with libsndfile 1.2.2.
# Why it matters: retrieval then pairs a text with half of its sound, and nothing in the scores says so.
# Instead: for WAV and AIFF, refuse a file whose SoundFile.extra_info has "(should be"; for MP3, compare the number
# of samples read with SoundFile.frames. An Ogg file tells nothing: keep the lengths or checksums of the originals.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv || exit 2
venv/bin/pip install --quiet --disable-pip-version-check 'soundfile==0.14.0' 'numpy==2.4.6' || exit 2
venv/bin/python - <<'PY'
import pathlib
import sys

import numpy as np
import soundfile as sf

print("soundfile", sf.__version__, "with", sf.__libsndfile_version__)
sound = np.random.default_rng(0).uniform(-0.5, 0.5, 48000)
seen = {}
for kind in ("WAV", "AIFF", "OGG", "MP3", "FLAC"):
    sf.write("whole", sound, 16000, format=kind)
    whole = pathlib.Path("whole").read_bytes()
    told_of_whole = "(should be" in sf.info("whole", verbose=True).extra_info
    pathlib.Path("cut").write_bytes(whole[: len(whole) * 6 // 10])
    try:
        with sf.SoundFile("cut") as file:
            seen[kind] = (file.frames, len(file.read()), "(should be" in file.extra_info and not told_of_whole)
        print(f"{kind}: frames {seen[kind][0]}, read {seen[kind][1]} of 48000, told in extra_info: {seen[kind][2]}")
    except sf.LibsndfileError as error:
        print(f"{kind}: {error}")

as_before = sorted(seen) == ["AIFF", "MP3", "OGG", "WAV"] and all(0 < read < 48000 for _, read, _ in seen.values())
as_before = as_before and [seen[kind][2] for kind in ("WAV", "AIFF", "OGG", "MP3")] == [True, True, False, False]
as_before = as_before and seen["OGG"][0] == seen["OGG"][1] and seen["MP3"][0] > seen["MP3"][1]
print("As described." if as_before else "The behaviour has changed.")
sys.exit(0 if as_before else 1)
PY
