"""Wrong values by kind of input: contents of files, folders, overrides, numbers and names."""

import copy
import gzip
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

DEEP = 200_000
"""Nested brackets."""
HUGE = "9" * 10_000
"""Digits of a number that Python does not convert (its limit is 4,300)."""
LONG_NAME = "x" * 5000
"""Longer than any file system's names."""

CONTENTS: Mapping[str, bytes] = {
    "empty": b"",
    "blank lines": b"\n \n\n",
    "binary": bytes(range(256)) * 16,
    "invalid UTF-8": b'{"a": "\xff"}\n',
    "UTF-16": '{"a": 1}\n'.encode("utf-16"),
    "only a byte order mark": b"\xef\xbb\xbf",
    "nested lists": b"[" * DEEP,
    "nested objects": b'{"a":' * DEEP,
    "closed nested lists": b"[" * DEEP + b"]" * DEEP,
    "nested lists in an object": b'{"query": ' + b"[" * DEEP + b"]" * DEEP + b"}\n",
    "a huge number": b'{"id": ' + HUGE.encode() + b"}\n",
    "a huge number alone": HUGE.encode(),
    "NaN": b'{"id": NaN}\n',
    "Infinity": b'{"id": -Infinity}\n',
    "1e999": b'{"id": 1e999}\n',
    "a key twice": b'{"id": "a", "id": "b"}\n',
    "an empty object": b"{}\n",
    "a list": b'[{"id": "a"}]\n',
    "an empty list": b"[]\n",
    "an object over several lines": b'{\n  "id": "a"\n}\n',
    "a number": b"3\n",
    "a text": b'"text"\n',
    "null": b"null\n",
    "half a surrogate pair": b'{"query": "\\ud800", "id": "\\ud800"}\n',
    "a surrogate as a key": b'{"\\ud800": 1}\n',
    "NUL bytes": b"\0" * 4096,
    "a NUL in a text": b'{"id": "a\\u0000b"}\n',
    "a very long line": b'{"a": "' + b"x" * 3_000_000 + b'"}\n',
    "cut short": b'{"id": "a", "query": "wh',
    "gzip": gzip.compress(b'{"id": "a"}\n'),
    "Python": b"{'id': None}\n",
    "a path": b'{"data": "a\\u0000b", "path": "a\\u0000b"}\n',
}
"""Contents that no reader takes for what it wants; some are an empty mapping or a list in YAML."""

YAMLS: Mapping[str, bytes] = {
    "an impossible date": b"seed: 2026-99-99\n",
    "an impossible time": b"seed: 2026-01-01T99:99:99\n",
    "a bomb of anchors": b"a: &a [x, x]\n"
    + b"".join(b"%c: &%c [%s]\n" % (97 + k, 97 + k, b", ".join([b"*%c" % (96 + k)] * 9)) for k in range(1, 25)),
    "a bomb of merges": b"a: &a {x: 1}\n"
    + b"".join(b"%c: &%c {<<: [%s]}\n" % (97 + k, 97 + k, b", ".join([b"*%c" % (96 + k)] * 9)) for k in range(1, 12)),
    "an anchor in itself": b"&a\nseed: *a\n",
    "a list in itself": b"seed: &a [*a]\n",
    "a merge of itself": b"&a\n<<: *a\n",
    "a Python object": b"!!python/object/apply:os.system [id]\n",
    "an unknown tag": b"seed: !nothing 3\n",
    "a list tagged as a map": b"!!map [a, b]\n",
    "a map tagged as a number": b"seed: !!int {a: 1}\n",
    "a text tagged as a number": b"seed: !!int text\n",
    "an empty text tagged as a number": b"seed: !!int ''\n",
    "a text tagged as a truth value": b"seed: !!bool perhaps\n",
    "a text tagged as a date": b"seed: !!timestamp text\n",
    "a text tagged as binary": b"seed: !!binary '*'\n",
    "a text tagged as pairs": b"seed: !!pairs text\n",
    "tabs": b"seed:\n\t- 1\n",
    "several documents": b"seed: 1\n---\nseed: 2\n",
    "an unknown alias": b"seed: *nobody\n",
    "an unclosed list": b"seed: [1, 2\n",
    "a key twice": b"seed: 1\nseed: 2\n",
    "a key that is a list": b"? [a, b]\n: 1\n",
    "a key that is a map": b"? {a: b}\n: 1\n",
    "a key that is a date": b"2026-01-01: 1\n",
    "a key that is null": b"null: 1\n",
    "a key that is a number": b"1: 1\n",
    "a huge number": b"seed: " + HUGE.encode() + b"\n",
    "a huge number in base 60": b"seed: " + b":".join([b"59"] * 5000) + b"\n",
    "a huge number in base 2": b"seed: 0b" + b"1" * 40_000 + b"\n",
    "nested maps": b"{a: " * 20_000,
    "nested lists by dashes": b"- " * 20_000,
    "an unknown key": b"no_such_key: 1\n",
    "a control character": b"seed: \x07\n",
    "a bad escape": b'seed: "\\q"\n',
    "a surrogate": b'seed: "\\ud800"\n',
    "a directive": b"%YAML 9.9\n---\nseed: 1\n",
}
"""Contents of YAML files, beside `CONTENTS`."""

OVERRIDES = (
    "no_equals_sign", "=3", "=", "", "no_such_key=1", "seed=2026-99-99", "seed=" + "[" * DEEP,
    f"seed={HUGE}", "seed=*a", "seed=&a [*a]", "seed=!!python/object/apply:os.system [id]", "seed=[1",
    "seed={a: 1, a: 2}",
    "seed=!!int text", "seed=!!binary '*'", "seed=\x07", "seed=\udcff", "\udcff=1", "seed=? [a]", "a.b.c=1", "..=1",
    "__class__=1", "model_config=1", "seed=0b" + "1" * 40_000, f"{LONG_NAME}=1", "seed=2026-01-01T99:99:99",
    "seed=1\nseed", "seed=!!bool perhaps", "seed=!!timestamp text", "seed=<<: 1", "seed={<<: 1}",
)  # fmt: skip
"""KEY=VALUE that no script takes."""

INTEGERS = ("x", "", "1.5", "1e3", "nan", "inf", "0x10", " ", "-x", "١٢x", "[1]", "null", HUGE)
"""No whole number, or one beyond every range."""
RANGES = ("-1", "0", "1000000000", str(2**63 - 1), str(10**30))
"""Whole numbers that most flags refuse; none may end in a traceback."""
NUMBERS = ("x", "", "1,5", "nan", "[1]", "null", "-inf")
"""No number, or none in any range."""
NAMES = ("", " ", "no/such/model/here", "\udcff", "a b", "../..", "/", "org/model?", LONG_NAME, "-", ".", "https://a/b")
"""No name of a model."""
WRONG = (None, [], {}, 3, -1, 1.5, "x", "", True, 10**30, [[["x"]]], {"a": {"b": None}}, "\ud800", "\0", "../../x")
"""Values for a field that wants another type, or another value."""


def broken(row: Mapping[str, Any], per_key: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """(what is wrong, the row) with each key missing, and with each key set to wrong values, down to nested ones.

    Args:
        per_key: how many of the wrong values each key gets, another few at every key.
    """
    turn = 0
    for path in _paths(row):
        name = ".".join(map(str, path))
        yield f"without {name}", _changed(row, path, remove=True)
        for k in range(per_key):
            value = WRONG[(turn + k) % len(WRONG)]
            yield f"{name} = {value!r}", _changed(row, path, value)
        turn += per_key


def _paths(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    if path:
        yield path
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _paths(inner, (*path, key))
    elif isinstance(value, list) and value:
        yield from _paths(value[0], (*path, 0))


def _changed(row: Mapping[str, Any], path: tuple[str | int, ...], value: Any = None, remove: bool = False) -> Any:
    changed: Any = copy.deepcopy(row)
    inner = changed
    for key in path[:-1]:
        inner = inner[key]
    if remove:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return changed


def encoded(value: Any) -> bytes:
    """JSON, half surrogate pairs as escapes."""
    return json.dumps(value).encode() + b"\n"


def model_folders(model: Path, folder: Path) -> Iterator[tuple[str, Path]]:
    """(what is wrong, a model folder with that fault), made from a good one."""
    configs: dict[str, bytes] = {
        **{name: CONTENTS[name] for name in CONTENTS if name != "a very long line"},
        "an unknown model_type": b'{"model_type": "no_such_model"}',
        "a model_type that is a list": b'{"model_type": ["llama"]}',
        "text where sizes are meant": b'{"model_type": "llama", "hidden_size": "many", "vocab_size": null}',
        "no sizes but zeros": b'{"model_type": "llama", "hidden_size": 0, "num_attention_heads": 0}',
        "negative sizes": b'{"model_type": "llama", "hidden_size": -64, "vocab_size": -1}',
    }
    for number, (name, content) in enumerate(configs.items()):
        yield f"config.json: {name}", _copy(model, folder / f"config_{number}", {"config.json": content})
    changes: dict[str, dict[str, bytes | None]] = {
        "no weights": {"model.safetensors": None},
        "empty weights": {"model.safetensors": b""},
        "weights of zeros": {"model.safetensors": b"\0" * 64},
        "weights of another kind": {"model.safetensors": b"\xff" * 64},
        "no tokenizer": dict.fromkeys(("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")),
        "an empty tokenizer.json": {"tokenizer.json": b""},
        "a tokenizer.json that is a list": {"tokenizer.json": b"[]"},
        "nested lists for a tokenizer": {"tokenizer.json": CONTENTS["nested lists"]},
        "a tokenizer_config.json that is a list": {"tokenizer_config.json": b"[]"},
        "a tokenizer_config.json of NULs": {"tokenizer_config.json": b"\0\0"},
        "a manifest that is a list": {"manifest.json": b"[]"},
        "an empty manifest": {"manifest.json": b""},
        "train_ids that are numbers": {"manifest.json": b'{"train_ids": [1]}'},
        "nested lists for a manifest": {"manifest.json": CONTENTS["nested lists"]},
        "a huge number in the manifest": {"manifest.json": CONTENTS["a huge number"]},
    }
    config = json.loads((model / "config.json").read_bytes())
    odd: dict[str, Any] = {"architectures": 3, "id2label": [3], "text_config": 3, "max_position_embeddings": "many"}
    for key, value in {**odd, "num_labels": -1, "eos_token_id": -5}.items():
        changes[f"an odd {key}"] = {"config.json": encoded({**config, key: value})}
    for value in ([[1]], {"a": 1}, "x", -5):
        changes[f"an odd end token {value}"] = {"generation_config.json": encoded({"eos_token_id": value})}
    for number, (name, files) in enumerate(changes.items()):
        yield name, _copy(model, folder / f"files_{number}", files)
    (folder / "nothing").mkdir()
    yield "an empty folder", folder / "nothing"
    (folder / "file").write_bytes(b"x")
    yield "a file", folder / "file"
    yield "a missing folder", folder / "missing"
    (folder / "loop").symlink_to("loop")
    yield "a link to itself", folder / "loop"


def _copy(model: Path, folder: Path, changes: Mapping[str, bytes | None]) -> Path:
    folder.mkdir(parents=True)
    for file in model.iterdir():
        (folder / file.name).symlink_to(file)
    for name, content in changes.items():
        (folder / name).unlink(missing_ok=True)
        if content is not None:
            (folder / name).write_bytes(content)
    return folder
