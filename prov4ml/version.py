"""The version of this package, read once at import and nowhere else written down twice."""

from typing import Final

VERSION: Final = "0.1.0"
