"""How replies are sampled: the flags, and what a model's own generation_config.json recommends."""

import argparse
import logging
from collections.abc import Callable, Mapping
from typing import Any

from agentark.cli import integer, number
from agentark.files import json_of
from agentark.hub import model_file
from agentark.types import UserError

CONTROLS = ("top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty", "stop")
"""Fields of `SamplingParams` beside temperature and length; None is neutral."""
SHAPING = ("repetition_penalty", "presence_penalty", "stop")
"""Those that would break a reply of a given form."""
NEUTRAL: Mapping[str, float] = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}
"""What may stand in a generation_config.json, and the value of each that changes nothing."""
GENERATION_CONFIG = "generation_config.json"
TEMPERATURE = 0.5

logger = logging.getLogger(__name__)


def add_sampling_flags(parser: argparse._ActionsContainer, temperature: str) -> None:
    """The flags that say how replies are sampled.

    Args:
        temperature: name of its flag.
    """
    parser.add_argument(
        temperature, dest="temperature", type=number(0, 2), help=f"sampling temperature (default: {TEMPERATURE})"
    )
    parser.add_argument("--top_p", type=number(0.001, 1), help="sample from the likeliest tokens of this probability")
    parser.add_argument("--top_k", type=integer(0, 1 << 20), help="sample from so many tokens (0: from all)")
    parser.add_argument("--min_p", type=number(0, 1), help="least probability, as a share of the likeliest token's")
    parser.add_argument(
        "--repetition_penalty", type=number(0.01, 10), help="above 1: fewer repetitions, of the prompt too"
    )
    parser.add_argument("--presence_penalty", type=number(-2, 2), help="above 0: fewer repetitions within a reply")
    parser.add_argument("--stop", nargs="+", type=_stop, metavar="TEXT", help="the reply ends before one of these")
    parser.add_argument(
        "--use_generation_config",
        action="store_true",
        help=f"what the model's {GENERATION_CONFIG} recommends, where no flag says otherwise",
    )


def _stop(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("'' ends every reply")
    return text


def sampling_of(args: argparse.Namespace, name: str, model: str | None) -> dict[str, Any]:
    """Temperature and those controls that are set, of the calls of a model.

    Args:
        name: of the model in messages.
        model: its folder or hub id; None: it is served, and its files are not here.

    Raises:
        UserError: its recommendations are asked for and cannot be read.
    """
    given = {key: value for key in ("temperature", *CONTROLS) if (value := getattr(args, key)) is not None}
    if "stop" in given:
        given["stop"] = tuple(given["stop"])
    advice = {}
    if args.use_generation_config:
        if model is None:
            raise UserError(
                f"--use_generation_config: {name} is served, its {GENERATION_CONFIG} is not here; use --top_p and so on"
            )
        advice = recommended(model)
    return {"temperature": TEMPERATURE, **advice, **given}


def recommended(model: str) -> dict[str, float]:
    """What the generation_config.json of a model recommends; nothing where there is none.

    Args:
        model: a folder or hub id.

    Raises:
        UserError: a value that is not a number.
    """
    file = model_file(model, GENERATION_CONFIG)
    advice = {} if file is None else {name: json_of(file).get(name) for name in NEUTRAL}
    for name, value in advice.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise UserError(f"{file}: {name} = {value!r:.100}: is not a number")
    return {name: value for name, value in advice.items() if value is not None}


def saying(make: Callable[..., Any], name: str, model: str | None, runs: Mapping[str, Any]) -> Callable[..., Any]:
    """`make` of an engine, which first says so where the model recommends something else than what runs.

    Args:
        name: of the model in messages.
        model: its folder or hub id; None: it is served.
        runs: temperature and controls.
    """

    def made(*args: Any) -> Any:
        advice = {} if model is None else recommended(model)
        others = {key: value for key, value in advice.items() if value != runs.get(key, NEUTRAL[key])}
        if others:
            listed = ", ".join(f"{key} {value:g}" for key, value in others.items())
            ours = ", ".join(f"{key} {runs.get(key, NEUTRAL[key]):g}" for key in others)
            logger.warning("%s recommends %s; it runs with %s (--use_generation_config)", name, listed, ours)
        return make(*args)

    return made
