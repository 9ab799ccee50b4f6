"""Large blocks lie outside the heap, whatever was freed before."""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
import sys

import pytest

from detcli.cpu import SWITCH

# Freeing 30 MiB makes glibc take later blocks of that size from its heap.
PROGRAM = """
import ctypes, sys
from detcli.cpu.memory import LARGE, map_large_blocks

class Info(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in (
        "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks",
        "fordblks", "keepcost")]

library = ctypes.CDLL(None)
library.mallinfo2.restype = Info
library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
library.free.argtypes = [ctypes.c_void_p]
if sys.argv[1] != "glibc":
    map_large_blocks()
library.free(library.malloc(30 * 2**20))
before = library.mallinfo2().hblks
library.malloc(LARGE + 1)
print(library.mallinfo2().hblks - before)
"""


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc" or not hasattr(ctypes.CDLL(None), "mallinfo2"),
    reason="needs glibc 2.33 or newer",
)
@pytest.mark.parametrize(("whose", "mapped"), [("glibc", "0"), ("on", "1"), ("off", "0")])
def test_large_blocks_have_pages_of_their_own(whose: str, mapped: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, whose],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, SWITCH: "off" if whose == "off" else "on"},
    )
    assert done.stdout.strip() == mapped
