"""The kernel's own check program, under the sanitizers of the C compiler."""

from __future__ import annotations

import random
import shutil
import subprocess
from pathlib import Path

import pytest

NATIVE = Path(__file__).resolve().parents[3] / "native"
COMPILER = shutil.which("cc")
FLAGS = ("-std=c11", "-O0", "-g", "-Wall", "-Wextra", "-Werror")
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")
ROUNDS = 100


@pytest.mark.skipif(COMPILER is None, reason="no C compiler")
def test_every_variant_equals_scalar_and_stays_within_its_buffers(tmp_path: Path) -> None:
    assert COMPILER is not None
    program = tmp_path / "check"
    sources = sorted(str(path) for path in NATIVE.glob("*.c"))
    subprocess.run([COMPILER, *FLAGS, *SANITIZERS, "-o", str(program), *sources], check=True)
    seed = random.randrange(1, 1 << 32)
    print(f"seed {seed}")
    done = subprocess.run([str(program), str(ROUNDS), str(seed)], capture_output=True, text=True)
    print(done.stdout, done.stderr)
    assert done.returncode == 0
    assert done.stdout.endswith("ok\n")
