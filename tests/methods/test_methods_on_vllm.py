"""Every registered name end to end: the embedded model behind a real vLLM server, two samples of a fitting task."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from vllm_server import vllm_server

import inference
from agentark import answers, summary
from agentark.records import read_records
from methods import METHODS, resolve

FIXTURES = Path(__file__).parents[1] / "agentark" / "tasks" / "fixtures"
DATASETS = {
    "agentverse": "HotpotQA",
    "dylan_math": "MATH-500",
    "dylan_mmlu": "MMLU",
    "dylan_humaneval": "HumanEval",
    "agentverse_humaneval": "HumanEval",
    "mav_gpqa": "MMLU",
    "mav_humaneval": "HumanEval",
    "mav_math": "MATH-500",
    "mav_mmlu": "MMLU",
    "macnet_srdd": "SRDD",
    "evomac": "HumanEval",
    "mapcoder": "HumanEval",
    "mapcoder_humaneval": "HumanEval",
    "mapcoder_mbpp": "MBPP",
    "chatdev_srdd": "SRDD",
}
"""What a name runs on here, where not on GSM8K."""


@pytest.fixture(scope="module")
def endpoints(tmp_path_factory: pytest.TempPathFactory, embedded_model: Path) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("served")
    with vllm_server(embedded_model, folder / "log", context=8192) as server:
        config = folder / "endpoints.yaml"
        config.write_text(json.dumps({"small": [{"model_name": "small", "model_url": server.url, "max_workers": 8}]}))
        yield config


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", METHODS)
def test_a_method_runs_to_the_end(name: str, endpoints: Path, data_dir: Path, tmp_path: Path) -> None:
    dataset = DATASETS.get(name, "GSM8K")
    folder = {"HumanEval": None, "SRDD": FIXTURES}.get(dataset, data_dir)
    path = tmp_path / f"{name}_infer.jsonl"
    flags = ["--method_name", name, "--test_dataset_name", dataset, "--model_name", "small", "--max_samples", "2"]
    flags += ["--model_api_config", str(endpoints), "--model_max_tokens", "128", "--output_path", str(path)]
    flags += ["--allow_code_execution"] if dataset in ("HumanEval", "MBPP", "SRDD") else []
    try:
        code = inference.main([*flags, *(["--data_dir", str(folder)] if folder else [])])
        print(summary.table([path]))
    finally:
        answers.close_pool()
    records = list(read_records(path))
    assert [record.error for record in records] == [None, None]
    assert code == 0
    assert {record.method.name for record in records} == {resolve(name, None, dataset)[0]}
    assert all(record.response for record in records)
