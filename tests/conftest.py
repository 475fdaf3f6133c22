"""Fixtures for all tests: the real models, pulled once."""

import os
import signal

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
