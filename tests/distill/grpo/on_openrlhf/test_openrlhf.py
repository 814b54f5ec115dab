"""Our agent file and experience maker with upstream's real classes, on CPU and without Ray."""

import asyncio
import importlib.metadata
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from grpo_cases import Scorer, settings, sums
from upstream_openrlhf import importing, upstream_arguments

from agentark.types import UserError
from distill.grpo.config import GRPOConfig
from distill.grpo.guards import guarded_credit
from distill.grpo.health import Watch
from distill.grpo.on_openrlhf import patch as grpo_patch
from distill.grpo.on_openrlhf import run as grpo_openrlhf
from distill.grpo.on_openrlhf.flags import Layout, arguments
from distill.grpo.on_openrlhf.run import SETTINGS, label
from distill.grpo.reward import Rewarder, StepScores
from distill.grpo.run import Run
from prm.steps import load_tokenizer

TEXTS = (
    ("We add.\n\nThe sum is 3.\n\nAnswer: 3", "Answer: 3", "Hm.\n\nAnswer: 9", ""),
    ("First.\n\nThen \\boxed{5}", "A\n\nB\n\nC\n\nAnswer: 5", "nothing\n\nhere", "x\n\nAnswer: 4"),
)
CUT = {(0, 2)}
"""Responses that did not end."""


class Queue:
    """An engine that gives prepared replies."""

    def __init__(self, replies: list[tuple[list[int], bool]]) -> None:
        self.replies = replies

    async def generate(self, prompt_ids: list[int], params: Any, multi_modal_data: Any = None) -> Any:
        ids, cut = self.replies.pop(0)
        reply = SimpleNamespace(token_ids=ids, text="", finish_reason="length" if cut else "stop", logprobs=None)
        return SimpleNamespace(outputs=[reply])


class OneByOne:
    """The same scores as `Scorer`, in the form an agent asks for."""

    def __init__(self, scorer: Scorer) -> None:
        self.scorer = scorer

    async def score(self, question: str, response: list[int]) -> StepScores:
        return self.scorer([question], [response])[0]


def rate(question: str, step: str, number: int) -> float:
    return (len(step) % 7 + 1) / 9


@pytest.fixture
def config(small_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> GRPOConfig:
    made = settings(
        small_model, tmp_path / "run", rollout_batch_size=2, micro_rollout_batch_size=1, bf16=True, init_kl_coef=0.01
    )
    Run(made).claim(print)
    monkeypatch.setenv(SETTINGS, str(tmp_path / "run" / "run.json"))
    return made


@pytest.fixture
def tokenizer(small_model: Path) -> Any:
    return load_tokenizer(str(small_model), "--pretrain")


def rolled_out(config: GRPOConfig, tokenizer: Any) -> tuple[list[Any], list[list[int]], Any]:
    """(what upstream makes of our agent's output, the responses' ids, upstream's arguments)."""
    generator = importing("openrlhf.trainer.ppo_utils.samples_generator")
    agent = importing("distill.grpo.on_openrlhf.agent").AgentExecutor(OneByOne(Scorer(tokenizer, rate)))
    assert agent.config == config
    made, responses = [], []
    for number, (sample, texts) in enumerate(zip(sums(2), TEXTS, strict=True)):
        for place, text in enumerate(texts):
            cut = (number, place) in CUT
            ids = tokenizer.encode(text, add_special_tokens=False) + [tokenizer.eos_token_id] * (not cut)
            params = SimpleNamespace(max_tokens=60, logprobs=None)
            out = asyncio.run(
                agent.execute(f"Q {number} {sample.query}", label(sample, sample.query, False), params, 200,
                              tokenizer, Queue([(ids, cut)]))
            )  # fmt: skip
            responses.append(ids)
            made.append(generator.SamplesGenerator._process_response_into_experience(None, out, max_len=200))
    words = arguments(config, Layout(config.pretrain, 140, Path("p.jsonl"), None, 1, False))
    return made, responses, upstream_arguments(words)


def made_maker(config: GRPOConfig, args: Any, tokenizer: Any) -> Any:
    importing("openrlhf.trainer.ppo_utils.experience_maker")
    kl_control = SimpleNamespace(value=config.init_kl_coef)
    maker = grpo_patch.experience_maker(config)(
        None, None, None, None, kl_control, SimpleNamespace(args=args), tokenizer
    )
    maker.watch = Watch(*config.bounds())
    maker.stopped = []
    return maker


@pytest.mark.parametrize("estimator", ["rloo", "reinforce", "group_norm", "gae"])
def test_advantages_are_those_of_credit(config: GRPOConfig, tokenizer: Any, estimator: Any) -> None:
    config = GRPOConfig(**config.model_dump() | {"advantage_estimator": estimator})
    Path(config.save_path, "run.json").unlink()
    Run(config).claim(print)
    experiences, responses, args = rolled_out(config, tokenizer)
    maker = made_maker(config, args, tokenizer)
    batches = maker.split_rollout_samples(experiences)
    assert [len(one.index) for one in batches] == [4, 4]
    torch.manual_seed(0)
    kls: list[Any] = [None] * 8
    values: list[Any] = [None] * 8
    for batch in batches:
        batch.kl = torch.rand(batch.action_mask.shape) * batch.action_mask
        batch.values = torch.rand(batch.action_mask.shape) if estimator == "gae" else None
        for row, place in enumerate(batch.index):
            at = batch.action_mask[row].bool()
            assert int(at.sum()) == len(responses[place])
            kls[place] = batch.kl[row][at]
            values[place] = None if batch.values is None else batch.values[row][at]
    batches = maker.compute_advantages_and_returns(batches)

    samples = [sample for sample in sums(2) for _ in range(4)]
    scorer = Scorer(tokenizer, rate)
    rewarder = Rewarder(config, scorer, tokenizer, {tokenizer.eos_token_id})
    steps = rewarder.steps([sample.query for sample in samples], responses)
    scored = rewarder.finish(samples, responses, steps)
    assert [one.hits for one in scored] == [
        (), ("one_step",), ("truncated",), ("empty", "one_step", "no_answer"),
        (), (), ("no_answer",), (),
    ]  # fmt: skip
    pad = torch.nn.utils.rnn.pad_sequence
    wanted = guarded_credit(
        config, scored, pad(kls, batch_first=True), None if estimator != "gae" else pad(values, batch_first=True)
    )
    for batch in batches:
        for row, place in enumerate(batch.index):
            at = batch.action_mask[row].bool()
            length = len(responses[place])
            torch.testing.assert_close(batch.advantages[row][at], wanted.advantages[place, :length])
            torch.testing.assert_close(batch.returns[row][at], wanted.returns[place, :length])
            assert not batch.advantages[row][~at].any()
    assert json.loads((Path(config.save_path) / "metrics.jsonl").read_text())["guard/one_step"] == 2


def test_experiences_go_through_upstreams_replay_buffer(
    config: GRPOConfig, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is left in `info` is what upstream's buffer, batching and logging take."""
    experiences, _, args = rolled_out(config, tokenizer)
    maker = made_maker(config, args, tokenizer)
    batches = maker.split_rollout_samples(experiences)
    for batch in batches:
        batch.kl = torch.zeros(batch.action_mask.shape)
        batch.action_log_probs = batch.base_action_log_probs = torch.zeros(batch.action_mask.shape)
    batches = maker.compute_advantages_and_returns(batches)
    assert not set(batches[0].info) & set(grpo_patch.PER_TOKEN)
    advantages = [batch.advantages.abs().sum() for batch in batches]
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)  # it asks for its name only
    buffer = importing("openrlhf.trainer.ppo_utils.replay_buffer").NaiveReplayBuffer(2, 0, True, False)
    for batch in batches:
        buffer.append(batch)
    assert len(buffer) == 8
    whole = buffer.collate_fn([buffer[place] for place in range(8)])
    assert whole.advantages.shape == whole.action_mask.shape
    torch.testing.assert_close(whole.advantages.abs().sum(), sum(advantages))
    for value in whole.info.values():
        assert len(value) == 8


def test_held_out_questions_get_their_verdict_alone(config: GRPOConfig, tokenizer: Any) -> None:
    agent = importing("distill.grpo.on_openrlhf.agent").AgentExecutor(OneByOne(Scorer(tokenizer, rate)))
    sample = sums(1)[0]
    rewards = []
    for text in ("Add.\n\nAnswer: 3", "Add.\n\nAnswer: 4"):
        ids = [*tokenizer.encode(text, add_special_tokens=False), tokenizer.eos_token_id]
        out = asyncio.run(
            agent.execute("Q", label(sample, sample.query, True), SimpleNamespace(max_tokens=60, logprobs=None), 200,
                          tokenizer, Queue([(ids, False)]))
        )  # fmt: skip
        rewards.append(out["reward"])
    assert rewards == [1.0, 0.0]


def test_the_gold_answer_is_not_in_the_prompt_file(config: GRPOConfig, small_model: Path) -> None:
    from grpo_cases import made_inputs

    inputs = made_inputs(config, small_model)
    layout = grpo_openrlhf.write_inputs(config, inputs, Path(config.save_path), 1)
    rows = [json.loads(line) for line in layout.prompts.read_text().splitlines()]
    assert [set(row) for row in rows] == [{"input", "label"}] * 8
    for row, one in zip(rows, inputs.prompts, strict=True):
        assert row["input"] == one.text
        assert one.sample.query in row["input"]
        assert json.loads(row["label"])["sample"]["gt"] == one.sample.gt
        assert f"={one.sample.gt}" not in row["input"]


def test_a_stopped_run_saves_and_says_why(config: GRPOConfig) -> None:
    class Plain:
        def __init__(self) -> None:
            self.experience_maker = SimpleNamespace(
                actor_model_group=None, critic_model_group=None, reward_model_group=None, initial_model_group=None,
                kl_ctl=None, strategy=SimpleNamespace(args=args), tokenizer=None,
            )  # fmt: skip
            self.saved: list[int] = []

        def save_logs_and_checkpoints(self, global_step: int) -> None:
            self.saved.append(global_step)

        def fit(self) -> None:
            for step in (1, 2, 3):
                if step == 2:
                    self.experience_maker.stopped.append("KL 9 is too high")
                self.save_logs_and_checkpoints(step)

    importing("openrlhf.trainer.ppo_utils.experience_maker")
    args = SimpleNamespace(algo=SimpleNamespace(advantage=SimpleNamespace(estimator="rloo")))
    made = grpo_patch.trainer(config, Plain)()
    made.fit()
    assert made.saved == [1, 2]
    assert json.loads(Path(config.save_path, "stopped.json").read_text()) == ["KL 9 is too high"]


def test_our_trainer_stands_where_upstream_looks(config: GRPOConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    module = importing("openrlhf.trainer.ppo_trainer")
    plain = module.PPOTrainer.__ray_metadata__.modified_class
    monkeypatch.setattr(module, "PPOTrainer", module.PPOTrainer)
    grpo_patch.install(config)
    ours = module.PPOTrainer.__ray_metadata__.modified_class
    assert issubclass(ours, plain)
    assert ours is not plain
    import ray.cloudpickle

    sent = ray.cloudpickle.loads(ray.cloudpickle.dumps(ours))  # as Ray sends it to its worker
    assert sent.fit is not plain.fit
    assert sent.__mro__[1].__name__ == plain.__name__


def test_another_upstream_version_is_refused(config: GRPOConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.12.0")
    with pytest.raises(UserError, match=r"openrlhf 0\.12\.0: .*0\.11\.2"):
        grpo_patch.install(config)


def test_workers_find_our_code(config: GRPOConfig) -> None:
    import os

    variables = grpo_openrlhf.runtime_environment()["env_vars"]
    assert str(grpo_openrlhf.ROOT) in variables["PYTHONPATH"].split(os.pathsep)
    assert Path(variables[SETTINGS]).is_file()
    assert grpo_openrlhf.settings() == config
