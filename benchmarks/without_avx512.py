"""Run a Python command as on a processor with AVX2 and without AVX-512 and AVX-VNNI: every framework, and this one.

    python benchmarks/without_avx512.py -m compactrnn bench --json benchmarks/results/bench_avx2.json

Frameworks ask `cpuid` which kernels they may use and have no common setting. So this makes a copy of the environment it
runs in, in which `ud2` stands for `cpuid` in all libraries that have one, and preloads a handler of that signal that
gives the processor's answer without those features (hide_avx512.c). What is measured is the processor at hand with its
AVX2 kernels: an older one has other caches and fewer units. Needs Linux on x86-64, gcc and binutils; the copy takes a
minute and about the space of the changed libraries, and is made again each time.
"""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
CPUID, UD2 = b"\x0f\xa2", b"\x0f\x0b"
FEATURES = ("F", "BW", "VL", "DQ", "CD")


def segments(library: Path) -> list[tuple[int, int, int]]:
    """Offset in the file, address and size of what is loaded."""
    text = subprocess.run(["readelf", "-lW", library], capture_output=True, text=True, check=True).stdout
    rows = [line.split() for line in text.splitlines()]
    return [(int(row[1], 16), int(row[2], 16), int(row[4], 16)) for row in rows if row[:1] == ["LOAD"]]


def places(library: Path) -> list[int]:
    """Where the instruction stands in the file."""
    command = ["objdump", "-d", "--no-show-raw-insn", str(library)]
    found, loaded = [], segments(library)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as listing:
        assert listing.stdout is not None
        for line in listing.stdout:
            if match := re.match(r"\s*([0-9a-f]+):\s+cpuid", line):
                address = int(match[1], 16)
                found += [address - at + offset for offset, at, size in loaded if at <= address < at + size]
    return found


def replace(library: Path) -> int:
    """Put a changed library in the place of the linked one; how many instructions were changed."""
    content = bytearray(library.read_bytes())
    found = places(library) if CPUID in content else []
    for place in found:
        assert content[place : place + 2] == CPUID, library
        content[place : place + 2] = UD2
    if found:
        changed = library.with_name(library.name + ".changed")
        changed.write_bytes(content)
        shutil.copymode(library, changed)
        changed.replace(library)
    return len(found)


def main(command: list[str]) -> int:
    """Make the copy, run the command in it; its exit status."""
    build = HERE.parent / "build"  # links need the same file system
    build.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=build) as folder:
        copy, handler = Path(folder) / "env", Path(folder) / "hide_avx512.so"
        subprocess.run(["gcc", "-O2", "-shared", "-fPIC", HERE / "hide_avx512.c", "-o", handler], check=True)
        shutil.copytree(sys.prefix, copy, symlinks=True, copy_function=os.link)
        site = copy / Path(sysconfig.get_path("platlib")).relative_to(sys.prefix)
        libraries = [path for path in site.rglob("*.so*") if path.is_file() and not path.is_symlink()]
        count = sum(map(replace, libraries))
        print(f"{count} places in {len(libraries)} libraries", file=sys.stderr)
        hidden = ",".join(f"-AVX512{name}" for name in FEATURES)
        settings = {"LD_PRELOAD": str(handler), "GLIBC_TUNABLES": f"glibc.cpu.hwcaps={hidden}"}
        return subprocess.run(
            [copy / "bin" / "python", *command], env={**os.environ, **settings}, check=False
        ).returncode


if __name__ == "__main__":
    if sys.argv[1:] in ([], ["-h"], ["--help"]):
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1:]))
