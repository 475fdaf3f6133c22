"""Every error nybble raises on purpose, in one tree. This module imports nothing.

    NybbleError                 anything below                                   exit code 1
    |-- UsageError              the request makes no sense as it was made                  2
    |   |-- ModelNotFoundError  no such known name, file or pulled model                   2
    |   `-- BusyError           the same thread already reads a reply of this model        2
    |-- ContextError            the prompt does not fit the context                        3
    |-- BudgetError             the model does not fit the memory                          3
    |-- FormatError             a file is damaged, hostile or of an unknown kind           4
    |   `-- TemplateError       the file's chat template is missing, broken or too costly  4
    |-- CpuError                no kernel here can run on this machine                     5
    |-- DownloadError           network, checksum, or no space for the file                1
    `-- NumericError            the model produced NaN: damaged weights or a bug           1

A text says what happened with its numbers, then what to do.
"""

from __future__ import annotations


class NybbleError(Exception):
    """Base of every error that nybble raises on purpose."""

    exit_code = 1


class UsageError(NybbleError):
    """The request makes no sense as it was made: a wrong type, a number out of range."""

    exit_code = 2


class ModelNotFoundError(UsageError):
    """No known name, file or pulled model is called that; the text has the way out."""


class BusyError(UsageError):
    """The thread or task that asks already holds the model's only free sequence."""


class ContextError(NybbleError):
    """The prompt has more tokens than the context holds; raised before anything runs."""

    exit_code = 3


class BudgetError(NybbleError):
    """The model does not fit the memory it may use; the text has the numbers."""

    exit_code = 3


class FormatError(NybbleError):
    """A file is damaged, hostile or of an unknown kind; the text says what and where."""

    exit_code = 4


class TemplateError(FormatError):
    """A chat template is missing, does not compile, or asks for more than it may have."""


class CpuError(NybbleError):
    """No kernel in this build can run on this machine, or the forced one cannot."""

    exit_code = 5


class DownloadError(NybbleError):
    """A download failed: network, checksum, or no space. No half of a model has its name; parts
    that came whole wait for the next pull."""


class NumericError(NybbleError):
    """The model produced a NaN: its weights are damaged, or nybble has a bug."""
