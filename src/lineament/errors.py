"""The errors this library raises: each says what was expected, what was found and what to do."""

from __future__ import annotations


class LineamentError(Exception):
    """Base of every error that the library raises on purpose."""


class ImageError(LineamentError):
    """A picture that cannot be read, or an array that is no picture."""


class OptionError(LineamentError, ValueError):
    """An option, threshold, method, runtime or device that does not exist or lies outside its range."""


class WeightsError(LineamentError):
    """A weight file that is missing, damaged or not one of ours."""


class DataError(LineamentError):
    """An index, label or detection file that does not say what its format promises; names file and line."""


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
