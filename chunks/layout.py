"""How an image is to be cut: the choice of parameters, and what a chunker here accepts.

The parameters stand in the manifest. A component follows its previous release's, so that equal
content gives equal chunks; these are the choices for a first release.
"""

from __future__ import annotations

from typing import Final

from protocol.errors import PolicyError
from protocol.limits import CHUNK_BYTES_MAX, GIB, IMAGE_BYTES_MAX
from protocol.manifest import DEFAULT_CHUNKER, LARGE_CHUNKER, ChunkerKind, ChunkerParameters

DEFAULT_IMAGE_BYTES_MAX: Final = 1 * GIB
"""Up to here the default chunker cannot exceed 2^18 chunks whatever the content (4 KiB minimum)."""
FASTCDC_AVERAGE_MIN: Final = 256
"""Smallest average FastCDC is specified for, bytes (docs/spec/chunks.md, mask table)."""
FASTCDC_AVERAGE_MAX: Final = 256 * 1024
"""Largest average, bytes: four times it is the largest chunk."""
FASTCDC_MINIMUM_MIN: Final = 64
"""Smallest minimum, bytes: the rolling hash needs 48 bytes to forget what came before."""
FASTCDC_MAXIMUM_MIN: Final = 1024
"""Smallest maximum, bytes."""


def default_parameters(image_bytes: int) -> ChunkerParameters:
    """Chooses the parameters for the first release of an image of `image_bytes`.

    Raises:
        PolicyError: empty, or over 16 GiB.
    """
    check_image_size(image_bytes)
    return DEFAULT_CHUNKER if image_bytes <= DEFAULT_IMAGE_BYTES_MAX else LARGE_CHUNKER


def fixed_parameters(chunk_bytes: int) -> ChunkerParameters:
    """Parameters that cut every `chunk_bytes` bytes."""
    return ChunkerParameters(
        kind=ChunkerKind.FIXED, minimum=chunk_bytes, average=chunk_bytes, maximum=chunk_bytes
    )


def check_image_size(image_bytes: int) -> None:
    """Refuses an image that no manifest can describe.

    Raises:
        PolicyError: empty, or over 16 GiB.
    """
    if not 1 <= image_bytes <= IMAGE_BYTES_MAX:
        raise PolicyError(
            "image.size", f"image of {image_bytes} bytes, allowed are 1 to {IMAGE_BYTES_MAX}"
        )


def check_parameters(parameters: ChunkerParameters) -> None:
    """Refuses parameters outside what docs/spec/chunks.md defines.

    Needed where we cut. A receiver never cuts: the recipe tells it every length.

    Raises:
        PolicyError: a size is out of range, or FastCDC's minimum or maximum is odd.
    """
    if parameters.kind is ChunkerKind.FIXED:
        return
    minimum, average, maximum = parameters.minimum, parameters.average, parameters.maximum
    if not FASTCDC_AVERAGE_MIN <= average <= FASTCDC_AVERAGE_MAX:
        raise PolicyError(
            "chunker.average",
            f"average {average}, allowed {FASTCDC_AVERAGE_MIN} to {FASTCDC_AVERAGE_MAX}",
        )
    if minimum < FASTCDC_MINIMUM_MIN or not FASTCDC_MAXIMUM_MIN <= maximum <= CHUNK_BYTES_MAX:
        raise PolicyError(
            "chunker.bounds",
            f"minimum {minimum} and maximum {maximum}, at least {FASTCDC_MINIMUM_MIN} and "
            f"{FASTCDC_MAXIMUM_MIN}",
        )
    if minimum % 2 or maximum % 2:
        # The cut search walks pairs of bytes; an odd bound would be missed by one.
        raise PolicyError("chunker.odd", f"minimum {minimum} and maximum {maximum} must be even")
