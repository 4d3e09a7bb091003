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
    """A part of the library whose packages are not installed. The message names the extra that installs them."""

    @classmethod
    def of(cls, extra: str, needs: str) -> MissingExtraError:
        """Make the error for a missing package of an extra.

        Args:
            extra: Name of the extra.
            needs: What needs the package, such as "a report needs jinja2".
        """
        how = f"pip install 'PATH/TO/LINEAMENT[{extra}]', from your copy of its repository"
        return cls(f"{needs}, of the extra {extra!r}: {how}")
