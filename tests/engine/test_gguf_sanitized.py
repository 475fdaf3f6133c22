"""The GGUF scanner under sanitizers."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import sanitized

sys.path.append(str(Path(__file__).parents[1] / "formats"))

import gguf_bytes as gb

pytestmark = sanitized.needs_compiler


@pytest.fixture(scope="module")
def scan(tmp_path_factory, objects):
    """Runs scan_gguf; returns its lines of output."""
    folder = tmp_path_factory.mktemp("scan_gguf")
    program = sanitized.build(folder, "scan_gguf", objects)
    return lambda *arguments: sanitized.run(program, *arguments).splitlines()


def test_sound_files_are_read_to_the_last_byte(scan, tmp_path):
    files = [gb.small(2), gb.small(3), gb.gguf()]
    for i, raw in enumerate(files):
        (tmp_path / str(i)).write_bytes(raw)
    lines = scan(*(tmp_path / str(i) for i in range(len(files))))
    assert [line.rpartition(" sum ")[0] for line in lines] == [
        "keys 6 tensors 2",
        "keys 6 tensors 2",
        "keys 0 tensors 0",
    ]


def test_hostile_files_are_refused(scan, tmp_path):
    cases = gb.hostile()
    for i, (raw, _) in enumerate(cases.values()):
        (tmp_path / str(i)).write_bytes(raw)
    lines = scan(*(tmp_path / str(i) for i in range(len(cases))))
    for (name, (_, complaint)), line in zip(cases.items(), lines, strict=True):
        assert line.startswith("error: "), f"{name}: {line}"
        assert complaint in line, f"{name}: {line}"


@pytest.mark.parametrize("version", [2, 3])
def test_files_cut_anywhere_are_refused(scan, tmp_path, version):
    raw = gb.small(version)
    (tmp_path / "small").write_bytes(raw)
    whole = len(raw) - gb.SMALL_PADDING
    assert scan("--cut", tmp_path / "small") == [
        f"accepted {gb.SMALL_PADDING + 1} of {len(raw) + 1}, the first of {whole} bytes"
    ]
