"""The `id:` of a stream's events: where its client stands in each of the stream's sessions. Opaque to clients."""

from __future__ import annotations

import binascii
import zlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence

_VERSION = 2
_SIGN = 4  # bytes that tell one stream's ids from another's
MAX_NUMBER = (1 << 63) - 1


class Cursor:
    """Writes and reads the ids of one stream, over these sessions in this order.

    An id is a version, a checksum of whose sessions they are, and the number of the last event seen in each, as
    base-128 varints: 9 characters for a young session, some 200 for fifty.
    """

    __slots__ = ("_head", "_length")

    def __init__(self, tenant_id: str, session_ids: Sequence[str]) -> None:
        scope = "\n".join((tenant_id, *session_ids)).encode()
        self._head = bytes([_VERSION]) + zlib.crc32(scope).to_bytes(_SIGN, "big")
        self._length = len(session_ids)

    def write(self, numbers: Sequence[int]) -> bytes:
        """The id of a client that has seen the events up to these numbers, one a session."""
        packed = bytearray(self._head)
        for number in numbers:
            left = number
            while left > 0x7F:
                packed.append(left & 0x7F | 0x80)
                left >>= 7
            packed.append(left)
        return urlsafe_b64encode(packed).rstrip(b"=")

    def read(self, text: str) -> list[int] | None:
        """The numbers that an id stands for; None if it is not one of this stream's."""
        try:
            packed = urlsafe_b64decode(text + "=" * (-len(text) % 4))
        except (binascii.Error, ValueError):
            return None
        if not packed.startswith(self._head):
            return None
        numbers: list[int] = []
        number = shift = 0
        for byte in packed[len(self._head) :]:
            number |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                numbers.append(number)
                number = shift = 0
        whole = shift == 0 and len(numbers) == self._length and all(n <= MAX_NUMBER for n in numbers)
        return numbers if whole else None
