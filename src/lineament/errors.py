"""The errors that the library raises. Each says what was expected, what was found and what to do."""

from __future__ import annotations


class LineamentError(Exception):
    """Base class of all errors that the library raises on purpose."""


class ImageError(LineamentError):
    """An image that cannot be read, or an array that is not an image."""


class OptionError(LineamentError, ValueError):
    """An argument that is out of range, or a method, runtime or device that does not exist."""


class WeightsError(LineamentError):
    """A weight file that is missing, damaged or not exported by lineament."""


class DataError(LineamentError):
    """A file of labels or detections that does not have its format. The message names file and line."""


class MissingExtraError(LineamentError, ImportError):
    """A part of the library that needs packages which are not installed; names the extra that brings them."""

    @classmethod
    def of(cls, extra: str, needs: str) -> MissingExtraError:
        """The error of an extra's package that is not installed.

        Args:
            extra: name of the extra. needs: what needs which package: "a report needs jinja2".
        """
        how = f"pip install 'PATH/TO/LINEAMENT[{extra}]', from your copy of its repository"
        return cls(f"{needs}, of the extra {extra!r}: {how}")
