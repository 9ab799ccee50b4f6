"""The errors that users see: one clear line each, and the exit code that goes with it."""

from __future__ import annotations


class DetcliError(Exception):
    """Anything the user can fix. The message says what, where, expected, got, what to do."""

    exit_code = 2


class UsageError(DetcliError):
    """The command line asks for something that cannot be done."""

    exit_code = 2


class RecipeError(DetcliError):
    """A recipe, an overlay or an override is not valid."""

    exit_code = 2


class DataError(DetcliError):
    """Images, annotations or predictions that cannot be used."""

    exit_code = 3


class OutputError(DetcliError):
    """A file that cannot be written: a full disk, a folder without permission."""

    exit_code = 3


class CheckpointError(DetcliError):
    """A checkpoint or weights file that cannot be used."""

    exit_code = 3


class DivergedError(DetcliError):
    """Training produced a NaN or an infinity; the batch was saved for replay."""

    exit_code = 4
