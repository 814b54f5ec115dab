"""Blanks a key out of what a server sends back, in every form that it may take."""

import base64
import html
import re
from collections.abc import Callable, Iterator

SECRET_LENGTH = 6
"""Shorter keys are placeholders; blanking them would blank words."""
MASK = "[key]"


def masking(key: str) -> Callable[[str], str]:
    """text -> the text without the key: each character plain or escaped (JSON, URL, HTML), in hex, and in base64."""
    if len(key) < SECRET_LENGTH:
        return str
    plain = "".join(f"(?:{'|'.join(_spellings(character))})" for character in key)
    forms = re.compile("|".join([plain, f"(?i:{key.encode().hex()})", *map(re.escape, _in_base64(key.encode()))]))
    return lambda text: forms.sub(MASK, text)


def masking_growth(key: str) -> Callable[[str], str]:
    """The same for a text that still grows: an end that may become the key is left out as well."""
    masked = masking(key)

    def growing(text: str) -> str:
        most = min(len(key) - 1, len(text)) if len(key) >= SECRET_LENGTH else 0
        begun = next((size for size in range(most, 0, -1) if text.endswith(key[:size])), 0)
        return masked(text[: len(text) - begun])

    return growing


def _spellings(character: str) -> Iterator[str]:
    """Patterns of a character, as it is and escaped."""
    code = ord(character)
    yield from (
        re.escape(character),
        rf"\\+{re.escape(character)}",
        rf"(?i:\\+u{code:04x}|%{code:02x}|&\#x0*{code:x};)",
    )
    yield from (rf"&\#0*{code};", re.escape(html.escape(character)))


def _in_base64(key: bytes) -> Iterator[str]:
    """The characters that are the same whatever stands before and after the key; one text for each offset."""
    for offset, skipped in enumerate((0, 2, 3)):  # characters that hold bits of the text before the key
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            encoded = encode(b"\0" * offset + key).decode()
            shared = (offset + len(key)) % 3  # bytes of the key in a last group shared with the text after it
            yield encoded[skipped : len(encoded) - (4 - shared if shared else 0)]
