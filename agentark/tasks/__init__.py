"""The datasets, by the exact names the command line takes."""

import importlib

from agentark.config import lookup
from agentark.tasks.base import Loaded, Task, data_folder

TASKS = {
    "GSM8K": "agentark.tasks.gsm8k:TASK",
    "MATH": "agentark.tasks.math:TASK",
    "MATH-500": "agentark.tasks.math500:TASK",
    "GSMSymbolic": "agentark.tasks.gsm_symbolic:TASK",
    "ChainSum": "agentark.tasks.chain_sum:TASK",
    "HiddenDigits": "agentark.tasks.hidden_digits:TASK",
    "SVAMP": "agentark.tasks.svamp:TASK",
    "QMSum": "agentark.tasks.qmsum:TASK",
    "HotpotQA": "agentark.tasks.hotpotqa:TASK",
    "MMLU": "agentark.tasks.mmlu:TASK",
    "MetaMathQA": "agentark.tasks.metamathqa:TASK",
    "QASPER": "agentark.tasks.qasper:TASK",
    "NarrativeQA": "agentark.tasks.narrativeqa:TASK",
    "MedMCQA": "agentark.tasks.medmcqa:TASK",
    "MedQA": "agentark.tasks.medqa:TASK",
    "GPQA": "agentark.tasks.gpqa:TASK",
    "TruthfulQA": "agentark.tasks.truthfulqa:TASK",
    "HumanEval": "agentark.tasks.humaneval:TASK",
    "MBPP": "agentark.tasks.mbpp:TASK",
    "SRDD": "agentark.tasks.srdd:TASK",
}
"""Name -> `module:attribute`, imported when asked for."""

__all__ = ["TASKS", "Loaded", "Task", "data_folder", "get_task"]


def get_task(name: str) -> Task:
    """The task of a dataset.

    Raises:
        UserError: unknown name; lists the known ones and the nearest.
    """
    module, _, attribute = lookup("dataset", name, TASKS).partition(":")
    task = getattr(importlib.import_module(module), attribute)
    assert isinstance(task, Task)
    return task
