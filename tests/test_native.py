"""Memory that the C library keeps for reuse."""

import subprocess
import sys

import pytest

from rtdetr import native

PROGRAM = """
import resource
import threading
from rtdetr import native

def faults():
    "Pages that the system clears for three large blocks."
    bytearray(48 * 2**20)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [bytearray(48 * 2**20) for _ in range(3)]
    del blocks
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def small_faults():
    "The same for many blocks of a size that glibc takes from its heap."
    for _ in range(2):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        blocks = [bytearray(24 * 2**20) for _ in range(10)]
        del blocks
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(faults(), small_faults())
with native.reuse_all_memory():
    native.reuse_memory()
    thread = threading.Thread(target=bytearray, args=(200 * 2**20,))  # more than the heap of a thread holds
    thread.start()
    thread.join()
    faults()
    print(faults())
print(faults())
print(small_faults())
"""


@pytest.mark.skipif(
    native._glibc() is None, reason="this system does not have glibc, whose mallopt and malloc_trim are called"
)
def test_memory_is_reused():
    result = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert result.stderr == ""
    before, before_small, inside, after, after_small = map(int, result.stdout.split())
    assert before > 10 and after > before / 2  # fewer than pages where the system gives out huge ones
    assert inside <= before / 10
    assert after_small <= before_small / 10


def test_another_c_library_is_not_changed(monkeypatch):
    monkeypatch.setattr(native, "_glibc", lambda: None)
    monkeypatch.setattr(native, "_heap", dict(native._heap))
    native.reuse_memory(2**40)
    with native.reuse_all_memory():
        pass
