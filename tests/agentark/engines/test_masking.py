"""A key with every sign that some escaping treats differently, in mixtures of spellings too."""

import base64
import html
import json
import urllib.parse

import pytest

from agentark.engines.masking import masking

KEY = "sk-pro/j+AbC=1&2'3~x\"y"


@pytest.mark.parametrize(
    "form",
    [
        KEY,
        json.dumps(KEY)[1:-1],
        json.dumps(KEY)[1:-1].replace("/", "\\/"),
        json.dumps(json.dumps(KEY)[1:-1])[1:-1],
        urllib.parse.quote(KEY),
        urllib.parse.quote(KEY, safe=""),
        urllib.parse.quote(KEY, safe="").replace("%2F", "%2f"),
        html.escape(KEY),
        KEY.replace("&", "&#x26;"),
        KEY.encode().hex(),
        base64.b64encode(KEY.encode()).decode(),
        base64.urlsafe_b64encode(b"me:" + KEY.encode() + b":you").decode(),
    ],
)
def test_no_form_of_a_key_is_left(form: str) -> None:
    masked = masking(KEY)(f"before {form} after")
    assert "[key]" in masked
    assert masked.startswith("before ")
    assert masked.endswith(" after")
    assert len(masked) < len("before [key] after") + 12, "of base64, what it shares with its surroundings"


def test_other_texts_and_placeholders_stay() -> None:
    assert masking(KEY)("sk-pro is short for something") == "sk-pro is short for something"
    assert masking("none")("none of these") == "none of these"
