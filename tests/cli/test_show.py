"""nybble show: what it counts, and what it prints of the real model and of a hostile one."""

import json
import struct
from types import SimpleNamespace

import pytest

from nybble.cli import main, show
from tests.model.models import edited
from tools.tiny_model import tiny_model


def tensor(*shape, format="Q4_1", nbytes):
    return SimpleNamespace(shape=shape, format=format, nbytes=nbytes)


def test_bytes_per_token_counts_a_tied_table_once():
    tensors = {
        "token_embd.weight": tensor(64, 1000, nbytes=40_000),
        "blk.0.attn_norm.weight": tensor(64, format="F32", nbytes=256),
        "blk.0.attn_q.weight": tensor(64, 64, nbytes=2560),
    }
    assert show.bytes_per_token(tensors, {}) == 40_000 + 2560
    tensors["output.weight"] = tensor(64, 1000, format="Q8_0", nbytes=68_000)
    assert show.bytes_per_token(tensors, {}) == 68_000 + 2560
    tensors["position_embd.weight"] = tensor(64, 128, nbytes=9999)
    assert show.bytes_per_token(tensors, {}) == 68_000 + 2560
    assert show.parameter_count(tensors.values()) == 2 * 64_000 + 64 + 64 * 64 + 64 * 128


def test_bytes_per_token_counts_the_experts_in_use():
    tensors = {"blk.0.ffn_up_exps.weight": tensor(64, 64, 8, nbytes=8000)}
    metadata = {"general.architecture": "x", "x.expert_count": 8, "x.expert_used_count": 2}
    assert show.bytes_per_token(tensors, metadata) == 2000


def test_formats_are_counted_the_largest_first():
    tensors = [
        tensor(64, format="F32", nbytes=256),
        tensor(64, 64, nbytes=2560),
        tensor(64, 64, nbytes=2560),
    ]
    assert list(show.formats(tensors).items()) == [("Q4_1", (2, 5120)), ("F32", (1, 256))]


@pytest.mark.parametrize("by", ["name", "path"])
def test_show_prints_the_real_model(smollm2_path, capsys, by):
    assert main(["show", "smollm2-135m" if by == "name" else smollm2_path]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{smollm2_path}: GGUF 3, 98 MB"
    assert any(line.split() == ["general.architecture", '"llama"'] for line in lines)
    assert any("tokenizer.ggml.tokens" in line and "[49152] " in line for line in lines)
    assert any("tokenizer.chat_template" in line and "characters)" in line for line in lines)
    assert "parameters       134,515,008" in lines
    assert max(map(len, lines)) < 200


def test_show_of_a_very_long_text_is_its_beginning(tmp_path, capsys):
    path = tmp_path / "tiny.gguf"
    tiny_model(path)
    edited(path, path, {"general.description": "\u20ac" * 400_000})
    assert main(["show", str(path)]) == 0
    begins = "\u20ac" * 64
    assert f'  "{begins}"... (1,200,000 bytes)\n' in capsys.readouterr().out
    assert main(["show", str(path), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)["metadata"]["general.description"]
    assert said == {"type": "string", "length": 1_200_000, "first": begins}


def test_show_json_of_the_real_model_adds_up(smollm2_path, capsys):
    assert main(["show", smollm2_path, "--json"]) == 0
    seen = json.loads(capsys.readouterr().out)
    assert seen["parameters"] == 134_515_008
    assert seen["metadata"]["tokenizer.ggml.tokens"]["length"] == 49_152
    by_format = {name: row["nbytes"] for name, row in seen["formats"].items()}
    assert sum(by_format.values()) == sum(tensor["nbytes"] for tensor in seen["tensors"])
    norms = sum(tensor["nbytes"] for tensor in seen["tensors"] if len(tensor["shape"]) == 1)
    assert seen["bytes_per_token"] == sum(by_format.values()) - norms
    assert "output.weight" not in [tensor["name"] for tensor in seen["tensors"]]


def string(text):
    encoded = text.encode()
    return struct.pack("<Q", len(encoded)) + encoded


def test_show_escapes_strings_and_nan(tmp_path, capsys):
    metadata = string("general.architecture") + struct.pack("<I", 8) + string("llama")
    metadata += string("general.name") + struct.pack("<I", 8) + string("\x1b]0;title\x07\u202e")
    metadata += string("a.number") + struct.pack("<If", 6, float("nan"))
    path = tmp_path / "evil.gguf"
    path.write_bytes(struct.pack("<4sIQQ", b"GGUF", 3, 0, 3) + metadata + bytes(64))
    assert main(["show", str(path)]) == 0
    out = capsys.readouterr().out
    assert '"\\x1b]0;title\\x07\\u202e"' in out
    assert not any(c in out for c in "\x1b\x07\u202e")
    assert main(["show", str(path), "--json"]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert json.loads(out)["metadata"]["a.number"] == "nan"


def test_show_fits_a_narrow_terminal(tmp_path, open_terminal):
    path = tmp_path / "tiny.gguf"
    tiny_model(path, layers=2, dim=96, heads=6, kv_heads=2, vocab=323)
    terminal = open_terminal("show", str(path), columns=40)
    assert terminal.end() == 0
    lines = terminal.seen.splitlines()
    wide = [line.strip() for line in lines if len(line) > 40]
    assert all(line.startswith(str(path)) for line in wide)  # a path stays whole
    assert any(line.startswith("  blk.1.ffn_down.weight") for line in lines)


def test_show_of_a_damaged_file_is_one_line_and_4(tmp_path, capsys):
    path = tmp_path / "damaged.gguf"
    path.write_bytes(b"GGUF" + bytes(3))
    assert main(["show", str(path)]) == 4
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("nybble: ")
    assert err.count("\n") == 1
