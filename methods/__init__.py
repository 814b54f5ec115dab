"""The registry of methods: exact names, imported when asked for. `python -m methods` lists them."""

from collections.abc import Iterable, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from agentark import config
from agentark.tasks import TASKS, get_task
from agentark.types import Method, MethodInfo, Sample, UserError

METHODS = {
    "vanilla": "methods.vanilla.vanilla:Vanilla",
    "cot": "methods.cot.cot:CoT",
    "self_consistency": "methods.self_consistency.self_consistency:SelfConsistency",
    "llm_debate": "methods.llm_debate.llm_debate:LLMDebate",
    "dylan": "methods.dylan.dylan:DyLAN",
    "dylan_math": "methods.dylan.dylan:DyLAN@config_math",
    "dylan_mmlu": "methods.dylan.dylan:DyLAN@config_mmlu",
    "dylan_humaneval": "methods.dylan.code:DyLANCode@config_humaneval",
    "agentverse": "methods.agentverse.agentverse:AgentVerse",
    "agentverse_mgsm": "methods.agentverse.agentverse:AgentVerse@config_mgsm",
    "agentverse_humaneval": "methods.agentverse.agentverse:AgentVerse@config_humaneval",
    "mav": "methods.mav.mav:MAV",
    "mav_main": "methods.mav.mav:MAV@config_main",
    "mav_gpqa": "methods.mav.mav:MAV@config_gpqa",
    "mav_humaneval": "methods.mav.mav:MAV@config_humaneval",
    "mav_math": "methods.mav.mav:MAV@config_math",
    "mav_mmlu": "methods.mav.mav:MAV@config_mmlu",
    "mad": "methods.mad.mad:MAD",
    "autogen": "methods.autogen.autogen:AutoGen",
    "camel": "methods.camel.camel:CAMEL",
    "macnet": "methods.macnet.macnet:MacNet",
    "macnet_srdd": "methods.macnet.macnet:MacNet@config_srdd",
    "evomac": "methods.evomac.evomac:EvoMAC",
    "mapcoder": "methods.mapcoder.mapcoder:MapCoder",
    "mapcoder_humaneval": "methods.mapcoder.mapcoder:MapCoder@config_humaneval",
    "mapcoder_mbpp": "methods.mapcoder.mapcoder:MapCoder@config_mbpp",
    "chatdev_srdd": "methods.chatdev.chatdev:ChatDev@config_srdd",
}
"""Name -> `module:class`, with `@config` unless its configuration is config_main of the module's folder."""

VARIANTS: dict[str, dict[str, str]] = {
    "dylan": {
        "MATH": "dylan_math",
        "MATH-500": "dylan_math",
        "MMLU": "dylan_mmlu",
        "HumanEval": "dylan_humaneval",
        "MBPP": "dylan_humaneval",
    },
    "agentverse": {
        "GSM8K": "agentverse_mgsm",
        "GSMSymbolic": "agentverse_mgsm",
        "SVAMP": "agentverse_mgsm",
        "HumanEval": "agentverse_humaneval",
        "MBPP": "agentverse_humaneval",
    },
    "mav": {
        "GPQA": "mav_gpqa",
        "HumanEval": "mav_humaneval",
        "MBPP": "mav_humaneval",
        "MATH": "mav_math",
        "MATH-500": "mav_math",
        "MMLU": "mav_mmlu",
    },
    "macnet": {"SRDD": "macnet_srdd"},
    "mapcoder": {"HumanEval": "mapcoder_humaneval", "MBPP": "mapcoder_mbpp"},
}
"""Method -> dataset -> name of the method that runs there, unless --method_config_name says otherwise."""

DEFAULT_VARIANT = "config_main"


def method_class(name: str) -> Any:
    """The class of a registered method.

    Raises:
        UserError: unknown name; lists the known ones and the nearest.
    """
    module, _, attribute = config.lookup("method", name, METHODS).partition("@")[0].partition(":")
    return getattr(import_module(module), attribute)


def configs_of(name: str) -> dict[str, Path]:
    """The configuration files of a registered method, by name."""
    spec = find_spec(METHODS[name].partition(":")[0])
    if spec is None or spec.origin is None:
        raise UserError(f"method {name!r}: no module {METHODS[name].partition(':')[0]}")
    return {path.stem: path for path in sorted((Path(spec.origin).parent / "configs").glob("*.yaml"))}


def default_config(name: str) -> str:
    """The configuration of a registered name."""
    return METHODS[name].partition("@")[2] or DEFAULT_VARIANT


def resolve(name: str, variant: str | None, dataset: str | None) -> tuple[str, str]:
    """The method to run: (registered name, name of its configuration file).

    Args:
        variant: a configuration; None: the one made for the dataset, else the name's own. A configuration that is
            registered by name runs under that name (`dylan` with config_math is dylan_math).
        dataset: name of the dataset it will run on; None: not known.
    """
    config.lookup("method", name, METHODS)
    if variant is None:
        name = VARIANTS.get(name, {}).get(dataset or "", name)
        return name, default_config(name)
    stem, folder = variant.removesuffix(".yaml"), configs_of(name)
    config.lookup(f"config of {name}", stem, folder)
    named = [other for other in METHODS if METHODS[other].endswith(f"@{stem}") and configs_of(other) == folder]
    return (named or [name])[0], stem


def load_method(
    name: str, variant: str | None = None, overrides: Sequence[str] = (), dataset: str | None = None
) -> tuple[Method, MethodInfo]:
    """A method by name, configured from `methods/<folder>/configs/<variant>.yaml` and key=value overrides.

    Args:
        variant, dataset: see `resolve`.

    Raises:
        UserError: unknown method, variant or key, or a bad value.
    """
    name, stem = resolve(name, variant, dataset)
    cls = method_class(name)
    settings = config.load(cls.Config, configs_of(name)[stem], overrides, "--method_config")
    return cls(settings), MethodInfo(name, stem, settings.model_dump(mode="json"))


def check_kind(method: Method, name: str, dataset: str, kind: str) -> None:
    """Raises UserError when the method cannot do a dataset of this kind; the message lists those it can."""
    able: frozenset[str] = type(method).TASKS  # type: ignore[attr-defined]
    if kind not in able:
        datasets = ", ".join(name for name in TASKS if get_task(name).kind in able)
        raise UserError(
            f"--method_name {name}: cannot do {dataset} (answers of the kind {kind}); it can do: {datasets}"
        )


def check_tasks(method: Method, name: str, samples: Iterable[Sample]) -> None:
    """Raises UserError when the samples ask for what the method cannot do."""
    for sample in samples:
        check_kind(method, name, sample.source, sample.kind)
