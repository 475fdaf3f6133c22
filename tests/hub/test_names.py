"""Names and places: what models are called, where they lie, and what is there."""

import os
import re
from pathlib import Path

import pytest

from nybble import hub
from nybble.errors import ModelNotFoundError, UsageError
from nybble.hub.known import DEFAULT, KNOWN
from tests.hub.small import FILE


def test_home_is_nybble_home_then_xdg_then_the_users(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("NYBBLE_HOME", "~/models")
    assert hub.home() == str(tmp_path / "models")
    monkeypatch.delenv("NYBBLE_HOME")
    assert hub.home() == str(tmp_path / "data" / "nybble")
    monkeypatch.setenv("XDG_DATA_HOME", "relative")
    assert hub.home() == str(tmp_path / ".local" / "share" / "nybble")


def test_home_without_any_home_says_what_to_set(monkeypatch):
    monkeypatch.delenv("NYBBLE_HOME", raising=False)
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    with pytest.raises(UsageError, match="NYBBLE_HOME"):
        hub.home()


def test_known_rows_are_complete():
    assert DEFAULT in KNOWN
    for name, model in KNOWN.items():
        assert name == model.name
        assert re.fullmatch(r"[a-z0-9][a-z0-9.-]*", name)
        assert model.nbytes > 0
        assert all(0 < part.download_nbytes and 0 < part.nbytes for part in model.parts)
        if model.parts:
            assert re.fullmatch(r"[0-9a-f]{64}", model.sha256)
        else:
            assert hub.split_hf(model.origin)[2].endswith(".gguf")
        assert model.about
        assert model.licence


def test_resolve_prefers_a_pulled_name_and_takes_paths(home, tmp_path, monkeypatch):
    (home / "models").mkdir(parents=True)
    (home / "models" / "mine.gguf").write_bytes(b"pulled")
    monkeypatch.chdir(tmp_path)
    Path("mine").write_bytes(b"a file of the same name")
    assert hub.resolve("mine") == str(home / "models" / "mine.gguf")
    assert hub.resolve("./mine") == "./mine"
    assert hub.resolve(tmp_path / "mine") == str(tmp_path / "mine")
    assert [(name, nbytes) for name, _, nbytes in hub.installed()] == [("mine", 6)]


@pytest.mark.parametrize(
    ("name", "way_out"),
    [
        ("smollm2-135m", r"smollm2-135m is not on this machine; get it: nybble pull smollm2-135m$"),
        ("smolm-135", r"did you mean smollm2-135m\? nybble pull smollm2-135m$"),
        ("zzz", r"nybble ls --known"),
        ("no/such/file.gguf", r"there is no model 'no/such/file.gguf'"),
        ("nul\0byte", r"there is no model 'nul\\x00byte'"),
        ("..", r"is a folder"),
        ("", r"there is no model ''"),
    ],
)
def test_resolve_of_nothing_says_the_way_out(home, name, way_out):
    with pytest.raises(ModelNotFoundError, match=way_out):
        hub.resolve(name)


def test_pull_of_an_unknown_name_is_refused(home):
    with pytest.raises(ModelNotFoundError, match="did you mean smollm2-135m"):
        hub.pull("smollm2-135")
    assert not home.exists()


@pytest.mark.parametrize(
    "name",
    [
        "hf:",
        "hf:owner",
        "hf:owner/",
        "hf:owner/repo/",
        "hf:owner/repo/file.bin",
        "hf:owner/repo/../file.gguf",
        "hf:owner/../file.gguf",
        "hf:../repo/file.gguf",
        "hf:owner/repo:Q4_0/file.gguf",
        "hf:owner/repo:Q4 0",
        "hf:ow ner/repo:Q4_0",
        "hf:owner/repo/.hidden.gguf",
        "hf:owner/repo/x\ny.gguf",
        "https://",
        "https://host",
        "https://host/",
        "https://host/file.bin",
        "https://host/../x.gguf",
        "https://../x.gguf",
        "https://host:port/x.gguf",
        "https://[::1/x.gguf",
        "http://host/" + "x" * 300 + ".gguf",
        "http://ho st/x.gguf",
        "http://host/\udcff.gguf",  # a byte of the command line that is no UTF-8
        "http://\udcff/x.gguf",
    ],
)
def test_a_malformed_name_is_refused(home, name):
    with pytest.raises(UsageError):
        hub.pull(name)
    with pytest.raises(UsageError):
        hub.resolve(name)
    assert not home.exists()


def test_names_and_paths_are_one_to_one(home):
    for name in (
        "plain",
        FILE,
        "hf:o/r/a/b/c.gguf",
        "https://host/x.gguf",
        "http://host:8080/a/b.gguf",
        "https://[::1]:8443/x%20y.gguf",
    ):
        path = Path(hub.path_of(name))
        assert path.is_relative_to(home / "models")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        assert hub.canonical(name) == name
        assert name in [found for found, _, _ in hub.installed()]
        path.unlink()


def test_an_address_of_the_hubs_pages_is_the_hubs_name():
    page = "https://huggingface.co/someone/tiny-GGUF/blob/main/tiny-Q4_0.gguf?x=1"
    assert hub.canonical(page) == FILE
    assert hub.canonical(page.replace("blob", "resolve")) == FILE
    assert hub.canonical(page.replace("main", "v2")).startswith("https://")


def test_a_link_to_what_is_no_more_is_no_model(the_hub):
    link = Path(hub.pull(FILE).path).with_name("gone.gguf")
    link.symlink_to("nowhere.gguf")
    assert [name for name, _, _ in hub.installed()] == [FILE]
