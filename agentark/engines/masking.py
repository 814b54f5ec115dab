"""Blanks a key out of what a server sends back, in every form that it may take."""

import base64
import json
import re
from collections.abc import Callable, Iterator
from urllib.parse import quote

SECRET_LENGTH = 6
"""Shorter keys are placeholders; blanking them would blank words."""
MASK = "[key]"


def masking(key: str) -> Callable[[str], str]:
    """text -> the text without the key: as it is, escaped for JSON or a URL, and in base64 (at any offset)."""
    if len(key) < SECRET_LENGTH:
        return str
    forms = re.compile("|".join(sorted(map(re.escape, {*_spellings(key)}), key=len, reverse=True)))
    return lambda text: forms.sub(MASK, text)


def _spellings(key: str) -> Iterator[str]:
    yield from (key, json.dumps(key)[1:-1], key.replace("/", "\\/"), quote(key, safe=""))
    for offset, skipped in enumerate((0, 2, 3)):  # characters that hold bits of the text before the key
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            encoded = encode(b"\0" * offset + key.encode()).decode()
            shared = (offset + len(key)) % 3  # bytes of the key in a last group shared with the text after it
            yield encoded[skipped : len(encoded) - (4 - shared if shared else 0)]
