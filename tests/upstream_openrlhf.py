"""The installed OpenRLHF on a machine without flash-attn: the few names it imports, and its real command line."""

import argparse
import ast
import importlib
import sys
from datetime import datetime
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from distill.grpo.on_openrlhf.run import UPSTREAM_MAIN, main_block

NAMES = {
    "flash_attn": (),
    "flash_attn.bert_padding": ("index_first_axis", "pad_input", "rearrange", "unpad_input"),
    "flash_attn.utils": (),
    "flash_attn.utils.distributed": ("all_gather",),
}


def stand_in() -> None:
    """Put modules in flash-attn's place that can be imported and not called."""
    if "flash_attn" in sys.modules or find_spec("flash_attn") is not None:
        return
    for name, attributes in NAMES.items():
        module = ModuleType(name)
        module.__spec__ = ModuleSpec(name, None, is_package=not attributes)
        for attribute in attributes:
            setattr(module, attribute, None)
        sys.modules[name] = module


def importing(name: str) -> Any:
    """A module of the installed OpenRLHF."""
    before = set(sys.modules)
    stand_in()
    try:
        return importlib.import_module(name)
    finally:
        for stub in set(NAMES) - before:  # transformers looks for flash-attn by name
            sys.modules.pop(stub, None)


def upstream_arguments(words: list[str]) -> argparse.Namespace:
    """What upstream's main block makes of a command line, its checks included: the block runs with `train` replaced."""
    importing("openrlhf.utils")
    spec = find_spec(UPSTREAM_MAIN)
    assert spec is not None
    assert spec.origin is not None
    block = main_block(Path(spec.origin).read_text(encoding="utf-8"))
    code = compile(ast.Module(body=block, type_ignores=[]), spec.origin, "exec")
    found: list[argparse.Namespace] = []
    names = {"__name__": "upstream", "argparse": argparse, "datetime": datetime, "train": found.append}
    before, sys.argv = sys.argv, ["train_ppo_ray", *words]
    try:
        exec(code, names)  # noqa: S102 - the installed package's own code
    finally:
        sys.argv = before
    return found[0]
