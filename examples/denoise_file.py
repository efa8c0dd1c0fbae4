"""Remove noise from a recording, as a stream, with a speech enhancer as its authors ship it: GTCRN or DTLN.

python examples/denoise_file.py gtcrn_stream.onnx noisy.wav clean.wav
python examples/denoise_file.py dtln_1.onnx,dtln_2.onnx noisy.wav clean.wav

The .onnx files are packed first, in float32; pack them yourself, in int8 and with calibration data, and
`compactrnn run` does the rest. A recording is a .wav file, mono, 16 bits, 16,000 samples a second; a microphone's
samples go to `stream.feed`, as they come.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import compactrnn as cr
from compactrnn.runtime.wav import as_wav, read_wav

RATE = 16_000
GTCRN = [cr.Audio(RATE, width=512, hop=256, window="sqrt-hann", takes="spectrum", gives="spectrum")]
DTLN = [cr.Audio(RATE, width=512, hop=128, takes="magnitude", gives="mask"), cr.Audio(RATE, width=512, hop=128)]


def load(names: str) -> cr.AudioStream:
    """The enhancer of one file or of two."""
    files, engines = names.split(","), []
    if len(files) > 2:
        raise ValueError(f"model: expected one file (GTCRN) or two (DTLN), got {len(files)}")
    with tempfile.TemporaryDirectory() as folder:
        for name, audio in zip(files, GTCRN if len(files) == 1 else DTLN, strict=True):
            path = Path(folder) / "model.crnn"
            cr.pack(name, path, weights="float32", audio=audio)
            engines.append(cr.Engine(path))
    return cr.AudioStream(*engines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a file of GTCRN, or two of DTLN with a comma between them")
    parser.add_argument("noisy", type=Path)
    parser.add_argument("clean", type=Path, help="a new file")
    given = parser.parse_args(arguments)
    try:
        if given.clean.exists():
            raise ValueError(f"{given.clean}: it is there already")
        noisy, stream = read_wav(given.noisy, RATE), load(given.model)
        began = time.perf_counter()
        clean = stream.recording(noisy)
        spent, seconds = time.perf_counter() - began, len(noisy) / RATE
        given.clean.write_bytes(as_wav(clean, RATE))
    except (ValueError, OSError) as error:
        sys.exit(f"denoise_file: {error}")
    print(f"{seconds:.2f} s of sound in {spent:.2f} s, real-time factor {spent / seconds:.3g}")


if __name__ == "__main__":
    main()
