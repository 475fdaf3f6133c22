"""nybble pack, pull --pack, and packed models in ls, rm and show."""

import fcntl
import json
import os

import pytest

import nybble
from nybble import hub, packing
from nybble.cli import main, pack
from nybble.cli.terminal import megabytes
from nybble.formats import packed, packed_writer
from nybble.formats.packed import PackedFile
from nybble.hub.pulling import Pulled
from tools.tiny_model import tiny_model


@pytest.fixture(autouse=True)
def copies(home, monkeypatch):
    """The folder of packed copies; models of any size are worth one."""
    monkeypatch.delenv("NYBBLE_PACK", raising=False)
    monkeypatch.setattr(packing, "WORTH_A_COPY", 0)
    return home / "cache" / "packed"


@pytest.fixture
def path(home):
    """A model of the name "tiny"."""
    (home / "models").mkdir(parents=True)
    tiny_model(home / "models" / "tiny.gguf")
    return home / "models" / "tiny.gguf"


def lines(capsys):
    out, err = capsys.readouterr()
    assert out == ""
    return err.splitlines()


def damage(path):
    """Turns a bit of the weights over, which only the sum finds out."""
    content = bytearray(path.read_bytes())
    content[-1000] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("by", ["name", "path"])
def test_pack_writes_a_file_that_runs(path, tmp_path, capsys, by):
    out = tmp_path / "x.nyb"
    assert main(["pack", "tiny" if by == "name" else str(path), "-o", str(out)]) == 0
    assert lines(capsys) == [
        f"{out}: {round(out.stat().st_size, -3) // 1000} kB, packed from {path}"
    ]
    path.unlink()
    assert nybble.load(out).weights.is_mapped
    assert main(["run", str(out), "hello", "--max-tokens", "2"]) == 0


def test_pack_wants_to_know_where(path, capsys):
    for flags in ([], ["-o", ""]):
        assert main(["pack", "tiny", *flags]) == 2
        assert lines(capsys) == [
            "nybble: where to? give -o FILE.nyb (or --verify to check a packed file)"
        ]


def test_pack_writes_over_nothing_unasked(path, tmp_path, capsys):
    out = tmp_path / "x.nyb"
    out.write_text("precious")
    assert main(["pack", "tiny", "-o", str(out)]) == 2
    assert lines(capsys) == [f"nybble: {out} is there already; give --force to write over it"]
    assert out.read_text() == "precious"
    assert main(["pack", "tiny", "-o", str(out), "--force"]) == 0
    assert nybble.load(out).weights.is_mapped


@pytest.mark.parametrize("what", ["a folder", "a device", "the model", "a link to the model"])
def test_pack_never_replaces_what_is_no_packed_file(path, tmp_path, capsys, what):
    before = path.read_bytes()
    if what == "a device":
        out, why = "/dev/null", "is there and is no file; give -o the name of a file"
    elif what == "a folder":
        out, why = tmp_path, "is there and is no file; give -o the name of a file"
    else:
        out, why = path, "is the model that is to be packed; give another name"
        if what == "a link to the model":
            out = tmp_path / "link"
            out.symlink_to(path)
    assert main(["pack", "tiny", "-o", str(out), "--force"]) == 2
    assert lines(capsys) == [f"nybble: {out} {why}"]
    assert path.read_bytes() == before
    assert not os.path.isfile("/dev/null")


@pytest.mark.parametrize("is_there", [False, True])
def test_pack_writes_no_file_that_could_not_be_run(path, tmp_path, capsys, is_there):
    out = tmp_path / "model.bin"
    if is_there:
        out.write_text("precious")
    assert main(["pack", "tiny", "-o", str(out), "--force"]) == 2
    assert lines(capsys) == [
        f"nybble: {out} could not be run: only what ends in .nyb is mapped; give -o FILE.nyb"
    ]
    assert out.exists() == is_there
    assert not is_there or out.read_text() == "precious"


def test_pack_says_why_it_cannot_write(path, tmp_path, capsys, monkeypatch):
    assert main(["pack", "tiny", "-o", f"{tmp_path}/nowhere/x.nyb"]) == 1
    assert lines(capsys) == [
        f"nybble: {tmp_path}/nowhere/x.nyb cannot be written: No such file or directory"
    ]
    monkeypatch.setattr("nybble.disk.free_bytes", lambda folder: 1_000)
    assert main(["pack", "tiny", "-o", f"{tmp_path}/x.nyb"]) == 1
    (line,) = lines(capsys)
    nbytes = packing.Reading(packing.open_file(str(path))).packed_nbytes
    assert line == (
        f"nybble: packing takes {megabytes(nbytes)} and some, and the disk of {tmp_path}/x.nyb has"
        " 1 kB free; free some space, or pack to a larger disk (nybble pack -o)"
    )
    assert sorted(os.listdir(tmp_path)) == ["home"]


def test_a_pull_that_has_no_room_to_pack_says_what_can_be_done(path, pulls, capsys, monkeypatch):
    """And the model is there."""
    monkeypatch.setattr("nybble.disk.free_bytes", lambda folder: 1_000)
    assert main(["pull", "tiny", "--pack"]) == 1
    assert "-o on a" not in lines(capsys)[-1]  # a pull has no such option
    assert hub.resolve("tiny") == str(path)


def test_pack_of_what_is_packed(path, tmp_path, capsys):
    out = tmp_path / "x.nyb"
    assert main(["pack", "tiny", "-o", str(out)]) == 0
    capsys.readouterr()
    again = tmp_path / "y.nyb"
    assert main(["pack", str(out), "-o", str(again)]) == 0
    assert lines(capsys) == [
        f"{again}: {round(out.stat().st_size, -3) // 1000} kB, a copy of {out}"
    ]
    assert again.read_bytes() == out.read_bytes()
    assert main(["pack", str(out), "-o", str(again)]) == 2
    assert lines(capsys) == [f"nybble: {again} is there already; give --force to write over it"]
    assert main(["pack", str(out), "-o", str(out), "--force"]) == 2
    damage(out)
    whole = again.read_bytes()
    assert main(["pack", str(out), "-o", str(again), "--force"]) == 4
    assert "its sha256 is" in lines(capsys)[-1]
    assert again.read_bytes() == whole
    assert sorted(os.listdir(tmp_path)) == ["home", "x.nyb", "y.nyb"]


def test_pack_of_a_model_that_is_kept_packed_copies_it(path, pulls, tmp_path, capsys):
    assert main(["pull", "tiny", "--pack"]) == 0
    assert main(["pack", "tiny", "-o", f"{tmp_path}/x.nyb"]) == 0
    packed = path.with_suffix(".nyb")
    assert lines(capsys)[-1].endswith(f"a copy of {packed}")
    assert (tmp_path / "x.nyb").read_bytes() == packed.read_bytes()


def test_pack_of_what_is_no_model(path, tmp_path, capsys):
    (tmp_path / "bad.gguf").write_bytes(b"GGUF" + bytes(30))
    assert main(["pack", f"{tmp_path}/bad.gguf", "-o", "x.nyb"]) == 4
    assert lines(capsys)[0].startswith(f"nybble: {tmp_path}/bad.gguf")
    assert main(["pack", "nosuch.gguf", "-o", "x.nyb"]) == 2


# -- --verify


def test_verify_proves_a_file_against_its_source(path, tmp_path, capsys):
    out = tmp_path / "x.nyb"
    assert main(["pack", "tiny", "-o", str(out), "--verify"]) == 0
    proved = f"{out}: its sum is right, and it is {path} bit for bit"
    assert lines(capsys)[1:] == [proved]
    assert main(["pack", str(out), "--verify"]) == 0
    assert lines(capsys) == [proved]
    os.utime(path, ns=(1, 1))
    assert main(["pack", str(out), "--verify"]) == 0
    assert lines(capsys) == [proved], "the same bytes, fetched again"


@pytest.mark.parametrize("why", ["gone", "shorter", "another head", "other weights"])
def test_verify_says_where_it_compared_nothing(path, tmp_path, capsys, why):
    out, content = tmp_path / "x.nyb", bytearray(path.read_bytes())
    assert main(["pack", "tiny", "-o", str(out)]) == 0
    capsys.readouterr()
    kept = tmp_path / "kept.gguf"
    kept.write_bytes(content)
    if why == "gone":
        path.unlink()
    else:
        if why == "shorter":
            del content[-1:]
        else:
            at = content.index(b"general.name") if why == "another head" else len(content) - 40
            content[at + 1] ^= 1
        path.write_bytes(content)
        os.utime(path, ns=(1, 1))
    assert main(["pack", str(out), "--verify"]) == 0
    assert lines(capsys) == [
        f"{out}: its sum is right, but its weights were compared with nothing: tiny.gguf, which it"
        " was packed from, is not here or has changed (--against MODEL.gguf names another file to"
        " compare with)"
    ]
    assert main(["pack", str(out), "--verify", "--against", str(kept)]) == 0
    assert lines(capsys) == [f"{out}: its sum is right, and it is {kept} bit for bit"]


def test_against_is_a_gguf_file_and_the_same(path, tmp_path, capsys):
    out, other = tmp_path / "x.nyb", tmp_path / "other.gguf"
    assert main(["pack", "tiny", "-o", str(out)]) == 0
    content = bytearray(path.read_bytes())
    content[-40] ^= 1
    other.write_bytes(content)
    capsys.readouterr()
    assert main(["pack", str(out), "--verify", "--against", str(other)]) == 4
    assert lines(capsys)[0].startswith(f"nybble: {out} is not {other} packed: ")
    assert main(["pack", str(out), "--verify", "--against", str(out)]) == 2
    assert "is packed itself; give --against a GGUF file" in lines(capsys)[0]
    assert main(["pack", str(out), "--against", str(other)]) == 2
    assert "give --verify too" in lines(capsys)[0]


def test_verify_finds_the_source_beside_the_file(path, tmp_path, capsys):
    out, beside = tmp_path / "x.nyb", tmp_path / "tiny.gguf"
    assert main(["pack", "tiny", "-o", str(out)]) == 0
    path.rename(beside)
    capsys.readouterr()
    assert main(["pack", str(out), "--verify"]) == 0
    assert lines(capsys) == [f"{out}: its sum is right, and it is {beside} bit for bit"]


def test_verify_finds_damage(path, tmp_path, capsys):
    out = tmp_path / "x.nyb"
    assert main(["pack", "tiny", "-o", str(out)]) == 0
    capsys.readouterr()
    damage(out)
    assert main(["pack", str(out), "--verify"]) == 4
    (line,) = lines(capsys)
    assert line.startswith(f"nybble: {out}: its sha256 is ")
    assert line.endswith(
        "the packed file is damaged: copy it again, or pack the model again (nybble pack)"
    )


def test_verify_of_a_model_is_of_its_copy(path, copies, capsys):
    assert main(["pack", "tiny", "--verify"]) == 0
    (copy,) = copies.iterdir()
    proved = f"{copy}: its sum is right, and it is {path} bit for bit"
    assert lines(capsys) == [proved]
    whole = copy.read_bytes()
    damage(copy)
    assert main(["pack", "tiny", "--verify"]) == 0
    said = lines(capsys)
    assert said[0].startswith(f"nybble: {copy}: its sha256 is ")
    assert said[1:] == [proved], "it was packed again"
    assert copy.read_bytes() == whole


def test_verify_makes_no_copy_where_none_is_wanted(path, copies, capsys, monkeypatch):
    monkeypatch.setenv("NYBBLE_PACK", "0")
    assert main(["pack", "tiny", "--verify"]) == 2
    assert "NYBBLE_PACK=0 says that nothing is packed into the cache; give -o" in lines(capsys)[0]
    assert not copies.exists()


def test_pack_json(path, tmp_path, capsys):
    out = tmp_path / "x.nyb"
    assert main(["pack", "tiny", "-o", str(out), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said.pop("seconds") > 0
    assert said == {
        "path": str(out),
        "nbytes": out.stat().st_size,
        "verified": None,
        "compared_with": None,
    }
    assert main(["pack", str(out), "--verify", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["verified"], said["compared_with"]) == ("source", str(path))
    path.unlink()
    assert main(["pack", str(out), "--verify", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["verified"], said["compared_with"]) == ("sum", None)


# -- pull --pack, ls, rm


@pytest.fixture
def pulls(path, monkeypatch):
    """Pulls of "tiny" make its file anew; the list of them."""
    content, calls = path.read_bytes(), []

    def pull(name, on_progress, on_wait, on_check):
        calls.append(name)
        path.write_bytes(content)
        return Pulled("tiny", str(path), "5" * 64, is_new=True, is_verified=True)

    monkeypatch.setattr(hub, "pull", pull)
    return calls


def test_pull_pack_keeps_the_packed_file_only(path, copies, pulls, capsys):
    nybble.load(path)
    assert len(list(copies.iterdir())) == 1
    assert main(["pull", "tiny", "--pack"]) == 0
    packed = path.with_suffix(".nyb")
    assert sorted(os.listdir(path.parent)) == [".lock", "tiny.nyb"]
    assert list(copies.iterdir()) == []
    said = lines(capsys)
    assert said[1] == f"{packed}: {packed.stat().st_size // 1000} kB, packed from {path}"
    assert said[2] == f"{packed}: its sum is right, and it is {path} bit for bit"
    assert hub.resolve("tiny") == str(packed)
    assert nybble.load("tiny").weights.is_mapped
    assert main(["pull", "tiny"]) == 0
    assert lines(capsys) == [
        f"tiny is already there, packed, and undamaged by its own sum: {packed}"
    ]
    assert pulls == ["tiny"]


def test_what_another_version_packed_is_pulled_anew(path, pulls, tmp_path, monkeypatch, capsys):
    """Its sum is right; but this nybble packs tensors in another way."""
    with monkeypatch.context() as other:
        for module in (packed, packed_writer):
            other.setattr(module, "how_packed", lambda placement: "as it used to be")
        assert main(["pull", "tiny", "--pack"]) == 0
    out = tmp_path / "x.nyb"
    assert main(["pack", str(path.with_suffix(".nyb")), "-o", str(out)]) == 4
    assert "another version of it packed the file" in capsys.readouterr().err
    assert not out.exists()
    assert main(["pull", "tiny"]) == 0
    assert "another version of it packed the file" in capsys.readouterr().err
    assert pulls == ["tiny", "tiny"]
    assert sorted(os.listdir(path.parent)) == [".lock", "tiny.nyb"]
    assert nybble.load("tiny").weights.is_mapped


def test_pull_pack_keeps_other_pulls_out(path, pulls, monkeypatch):
    write, tried = pack.write, []

    def write_alone(source, output):
        with open(path.parent / ".lock") as lock, pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        tried.append(source)
        write(source, output)

    monkeypatch.setattr(pack, "write", write_alone)
    assert main(["pull", "tiny", "--pack"]) == 0
    assert tried == [str(path)]


def test_pull_pack_of_what_another_has_packed_meanwhile(path, pulls, monkeypatch):
    packed, pulled = path.with_suffix(".nyb"), hub.pull

    def pull(*arguments):
        found = pulled(*arguments)
        pack.write(str(path), str(packed))
        path.unlink()
        return found

    monkeypatch.setattr(hub, "pull", pull)
    assert main(["pull", "tiny", "--pack"]) == 0
    assert hub.resolve("tiny") == str(packed)


def test_a_damaged_packed_model_is_pulled_and_packed_again(path, pulls, capsys):
    assert main(["pull", "tiny", "--pack"]) == 0
    packed = path.with_suffix(".nyb")
    whole = packed.read_bytes()
    damage(packed)
    capsys.readouterr()
    assert main(["pull", "tiny"]) == 0
    assert lines(capsys)[0].startswith(f"nybble: {packed}: its sha256 is ")
    assert len(pulls) == 2
    assert sorted(os.listdir(path.parent)) == [".lock", "tiny.nyb"]
    with PackedFile(packed) as file:
        file.check_sum()
    assert packed.stat().st_size == len(whole)


def test_ls_and_rm_count_copies(path, copies, capsys):
    alone = path.stat().st_size
    nybble.load(path)
    (copy,) = copies.iterdir()
    both = alone + copy.stat().st_size
    assert main(["ls", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "name": "tiny",
        "nbytes": alone,
        "packed_nbytes": copy.stat().st_size,
        "path": str(path),
    }
    assert main(["ls"]) == 0
    assert f"tiny  {both / 1e3:.0f} kB" in capsys.readouterr().out
    assert main(["rm", "tiny", "--yes"]) == 0
    assert f"{both / 1e3:.0f} kB" in capsys.readouterr().err
    assert not path.exists()
    assert not copy.exists()


def test_ls_and_rm_count_what_a_pull_pack_that_was_killed_has_left(path, capsys):
    packed = path.with_suffix(".nyb")
    pack.write(str(path), str(packed))
    (path.parent / "tiny.nyb.part").write_bytes(bytes(5_000_000))
    both = path.stat().st_size + packed.stat().st_size
    assert main(["ls", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["packed_nbytes"] == packed.stat().st_size
    assert main(["ls"]) == 0
    assert f"tiny  {both / 1e3:.0f} kB" in capsys.readouterr().out
    assert main(["rm", "tiny", "--yes"]) == 0
    assert "5 MB" in capsys.readouterr().err
    assert os.listdir(path.parent) == [".lock"]


def test_ls_and_rm_of_a_model_that_is_kept_packed(path, pulls, capsys):
    assert main(["pull", "tiny", "--pack"]) == 0
    packed = path.with_suffix(".nyb")
    nbytes = packed.stat().st_size
    capsys.readouterr()
    assert main(["ls", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "name": "tiny",
        "nbytes": nbytes,
        "packed_nbytes": nbytes,
        "path": str(packed),
    }
    assert main(["rm", "tiny", "--yes"]) == 0
    assert os.listdir(path.parent) == [".lock"]


# -- show, and what a load says


def test_show_of_a_packed_file(path, tmp_path, capsys):
    out = tmp_path / "x.nyb"
    assert main(["pack", "tiny", "-o", str(out)]) == 0
    capsys.readouterr()
    assert main(["show", str(path)]) == 0
    there = capsys.readouterr().out.splitlines()
    assert main(["show", str(out)]) == 0
    here = capsys.readouterr().out.splitlines()
    kilobytes = [f"{one.stat().st_size / 1e3:.0f} kB" for one in (out, path)]
    assert here[0] == f"{out}: packed, {kilobytes[0]}"
    assert here[1] == f"packed from tiny.gguf, {kilobytes[1]}"
    assert sorted(here[2:]) == sorted(there[1:]), "the same metadata, tensors and formats"


def test_show_asks_nothing_of_the_path_that_a_packed_file_names(path, copies, capsys, monkeypatch):
    """It may be any, on a network too. `pack --verify` does ask, and says so."""
    nybble.load(path)
    (copy,) = copies.iterdir()
    path.unlink()
    asked, stat = [], os.stat

    def watched(of, **how):
        asked.append(of)
        return stat(of, **how)

    monkeypatch.setattr(os, "stat", watched)
    for more in ([], ["--json"]):
        assert main(["show", str(copy), *more]) == 0
    assert f"packed from {path}, " in capsys.readouterr().out
    assert str(path) not in asked
    assert main(["pack", "--verify", str(copy)]) == 0
    assert str(path) in asked, "this test does not see who asks"


def test_show_json_of_a_packed_file(path, tmp_path, capsys):
    out = tmp_path / "x.nyb"
    assert main(["pack", "tiny", "-o", str(out)]) == 0
    capsys.readouterr()
    assert main(["show", str(out), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["metadata"]["general.architecture"] == "llama"
    crc32 = said["source"].pop("crc32")
    assert len(crc32) == 8
    assert said["source"] == {"path": "tiny.gguf", "nbytes": path.stat().st_size}
    assert main(["show", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["source"] is None


def test_run_says_why_it_runs_from_memory(path, capsys, monkeypatch):
    monkeypatch.setattr("nybble.disk.free_bytes", lambda folder: 0)
    assert main(["run", "tiny", "hello", "--max-tokens", "1"]) == 0
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "runs from memory" in line]
    assert line.startswith("nybble: tiny.gguf runs from memory (0 MB) and is packed at each start")
