"""The sampling controls from the flags to the calls, and what a model's generation_config.json recommends."""

import asyncio
import json
import logging
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fakes import ScriptedEngine

import inference
from agentark.cli import Parser
from agentark.engines.choose import Choice
from agentark.episode import Defaults, Episode, Gate
from agentark.sampling import add_sampling_flags, recommended, sampling_of, saying
from agentark.types import Sample, SamplingParams, UserError, message

SET = ["--top_p", "0.8", "--top_k", "20", "--min_p", "0.1", "--stop", "###", "END"]
ADVICE = {"temperature": 0.6, "top_p": 0.95, "top_k": 20, "do_sample": True, "eos_token_id": [1, 2]}


def flags(*words: str) -> Namespace:
    parser = Parser()
    add_sampling_flags(parser, "--model_temperature")
    parsed: Namespace = parser.parse_args(list(words))
    return parsed


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    (tmp_path / "model/generation_config.json").write_text(json.dumps(ADVICE))
    return tmp_path / "model"


def test_only_what_is_set_is_part_of_a_call(model: Path) -> None:
    assert sampling_of(flags(), "m", str(model)) == {"temperature": 0.5}
    given = sampling_of(flags(*SET), "m", str(model))
    assert given == {"temperature": 0.5, "top_p": 0.8, "top_k": 20, "min_p": 0.1, "stop": ("###", "END")}


def test_a_flag_wins_over_what_the_model_recommends(model: Path) -> None:
    taken = sampling_of(flags("--use_generation_config"), "m", str(model))
    assert taken == {"temperature": 0.6, "top_p": 0.95, "top_k": 20}
    taken = sampling_of(flags("--use_generation_config", "--model_temperature", "0", "--top_k", "0"), "m", str(model))
    assert taken == {"temperature": 0.0, "top_p": 0.95, "top_k": 0}
    with pytest.raises(UserError, match="--use_generation_config: org/m is served"):
        sampling_of(flags("--use_generation_config"), "org/m", None)


def test_a_model_without_the_file_recommends_nothing(tmp_path: Path) -> None:
    assert recommended(str(tmp_path)) == {}


@pytest.mark.parametrize("value", ["hot", True, [0.5]])
def test_a_recommendation_that_is_no_number_is_one_line(model: Path, value: Any) -> None:
    (model / "generation_config.json").write_text(json.dumps({"top_p": value}))
    with pytest.raises(UserError, match=r"generation_config.json: top_p = .*: is not a number"):
        recommended(str(model))


def test_one_line_says_what_a_model_recommends_instead(model: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert saying(lambda lock: "engine", "org/m", str(model), {"temperature": 0.5, "top_k": 20})(None) == "engine"
    assert caplog.messages == [
        "org/m recommends temperature 0.6, top_p 0.95; it runs with temperature 0.5, top_p 1 (--use_generation_config)"
    ]
    caplog.clear()
    saying(lambda lock: "engine", "org/m", str(model), {"temperature": 0.6, "top_p": 0.95, "top_k": 20})(None)
    saying(lambda lock: "engine", "org/m", None, {"temperature": 0.5})(None)
    assert not caplog.messages


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--top_p", "0"], "--top_p: '0' is not a number from 0.001 to 1"),
        (["--top_p", "nan"], "--top_p: 'nan'"),
        (["--top_k", "-1"], "--top_k: '-1' is not a whole number from 0"),
        (["--min_p", "2"], "--min_p: '2'"),
        (["--repetition_penalty", "0"], "--repetition_penalty: '0'"),
        (["--presence_penalty", "-3"], "--presence_penalty: '-3'"),
        (["--stop", ""], "--stop: '' ends every reply"),
    ],
)
def test_values_out_of_range_are_one_line(words: list[str], says: str) -> None:
    with pytest.raises(UserError, match=says):
        flags(*words)


def params_of(**call: Any) -> SamplingParams:
    """What an engine is given for one call."""
    engine = ScriptedEngine()
    controls = {"top_p": 0.8, "repetition_penalty": 1.1, "stop": ("###",)}
    engines = {name: (engine, Gate(1)) for name in ("main", "sandbox")}
    sample = Sample(id="a", source="T", query="q", gt="1", answer_type="number")
    episode = Episode(sample, 0, Defaults(0.5, 64, 0, controls), engines, {}, None)
    asyncio.run(episode([message("user", "Hi")], agent="agent_1", round=1, role="solver", **call))
    return engine.seen[0][2]


def test_guided_calls_keep_their_form() -> None:
    free = params_of()
    assert (free.top_p, free.repetition_penalty, free.stop) == (0.8, 1.1, ("###",))
    schema = params_of(schema={"type": "object"})
    assert (schema.top_p, schema.repetition_penalty, schema.stop) == (0.8, None, None)
    for bare in (params_of(choices=("a", "b")), params_of(model="sandbox")):
        assert (bare.top_p, bare.repetition_penalty, bare.stop) == (None, None, None)


@pytest.fixture
def run(tmp_path: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., ScriptedEngine]:
    monkeypatch.chdir(tmp_path)

    def call(*words: str) -> ScriptedEngine:
        argv = ["--method_name", "cot", "--test_dataset_name", "GSM8K", "--model_name", "org/model"]
        argv += ["--max_samples", "1", "--data_dir", str(data_dir), *words]
        engine = ScriptedEngine()
        choice = Choice("org/model", lambda lock: engine, None)
        assert inference.main(argv, choose_engine=lambda *_: choice) == 0
        return engine

    return call


def test_the_controls_are_part_of_a_run_only_if_they_are_set(
    run: Callable[..., ScriptedEngine], tmp_path: Path
) -> None:
    plain = run()
    assert plain.seen[0][2].top_p is None
    manifest = next((tmp_path / "results/GSM8K/org/model").glob("*manifest.json"))
    assert not {"top_p", "stop", "extra_body"} & json.loads(manifest.read_text())["config"].keys()
    with pytest.raises(UserError, match=r"another configuration .*top_p was None, now 0.8"):
        run(*SET)
    assert run("--overwrite", *SET).seen[0][2].stop == ("###", "END")
    assert json.loads(manifest.read_text())["config"]["stop"] == ["###", "END"]
    assert not run(*SET).seen
