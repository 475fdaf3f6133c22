"""Fixtures for all tests: the real models, pulled once."""

import os
import signal
import time
from pathlib import Path

import pytest

from nybble import hub
from nybble.errors import DownloadError

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a job that a script runs behind it:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what tests start is to hear Ctrl-C

# Trials would say what else the machine does; tests/test_tuning.py has them on.
os.environ["NYBBLE_TUNE"] = "0"


def pulled(name):
    """Path of a known model, pulled into $NYBBLE_HOME on first use. Where it cannot be had, CI
    fails and a laptop skips."""
    if hub.is_pulled(name):  # whose sum a pull would compute again
        return hub.resolve(name)
    try:
        return hub.pull(name).path
    except DownloadError as error:
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI needs the real model: {error}")
        pytest.skip(f"needs the real model; run: nybble pull {name} ({error})")


@pytest.fixture(scope="session", autouse=True)
def only_real_models_are_in_the_real_cache(tmp_path_factory):
    """What is found out about other models is nobody's, once their tests are over. A test that has
    models of its own packed or tuned sets $NYBBLE_HOME."""
    started = time.time()
    yield
    base = bytes(tmp_path_factory.getbasetemp()) + b"/"
    files = Path(hub.cache_folder(), "packed").glob("*")
    leaked = [str(path) for path in files if tells_of(path, base, started)]
    assert not leaked, f"tests left these: {', '.join(leaked)}"


def tells_of(path, words, since):
    """Whether a file was written since then and has these words in it."""
    try:
        return path.stat().st_mtime >= since and words in path.read_bytes()
    except FileNotFoundError:  # another process has just removed it
        return False


@pytest.fixture(scope="session")
def objects(tmp_path_factory):
    """The folder of what is compiled for one C program and linked into the next."""
    return tmp_path_factory.mktemp("objects")


@pytest.fixture(scope="session")
def smollm2_path():
    return pulled("smollm2-135m")


@pytest.fixture(scope="session")
def gemma3_path():
    return pulled("gemma3-270m")


@pytest.fixture(scope="session")
def qwen_coder_path():
    return pulled("qwen2.5-coder-0.5b")
