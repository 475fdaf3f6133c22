"""Fixtures for all tests: the real model, pulled once."""

import os

import pytest

from nybble import hub
from nybble.errors import DownloadError


@pytest.fixture(scope="session")
def smollm2_path():
    """Path of the known model smollm2-135m, pulled into $NYBBLE_HOME on first use.

    Where it cannot be had, CI fails and a laptop skips.
    """
    try:
        return hub.pull("smollm2-135m")
    except DownloadError as error:
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI needs the real model: {error}")
        pytest.skip(f"needs the real model; run: nybble pull smollm2-135m ({error})")
