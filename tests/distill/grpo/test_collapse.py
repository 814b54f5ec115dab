"""The known collapse of process rewards, made to happen at small size, and the guards that keep it from happening."""

from pathlib import Path
from statistics import fmean

import pytest
import torch
from grpo_cases import Scorer, made_inputs, settings

from distill.grpo.on_trl import run as grpo_trl
from distill.grpo.run import Run, rows

pytestmark = pytest.mark.slow

SHAPES = ("We add.\n\nAnswer: 3", "So.\n\nAnswer: 3", "Answer: 3", "")
"""What the policy says before training, each about equally often; the last is the empty output."""


@pytest.fixture(scope="module")
def policy(small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small model, taught to say one of SHAPES."""
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("policy")
    inputs = made_inputs(settings(small_model, folder), small_model, 4)
    model = AutoModelForCausalLM.from_pretrained(small_model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    rows_ = []
    for prompt in inputs.prompts:
        asked = inputs.tokenizer.encode(prompt.text, add_special_tokens=False)
        for text in SHAPES:
            said = [*inputs.tokenizer.encode(text, add_special_tokens=False), 2]
            rows_.append((asked + said, [-100] * len(asked) + said))
    width = max(len(ids) for ids, _ in rows_)
    ids = torch.tensor([one + [2] * (width - len(one)) for one, _ in rows_])
    labels = torch.tensor([one + [-100] * (width - len(one)) for _, one in rows_])
    mask = torch.tensor([[1] * len(one) + [0] * (width - len(one)) for one, _ in rows_])
    torch.manual_seed(0)
    for _ in range(80):
        loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    inputs.tokenizer.save_pretrained(folder)
    return folder


def loves_empty(question: str, step: str, number: int) -> float:
    """A reward model that is right about steps (adding is better than nothing said) but for the known fault: a single
    empty step scores highest."""
    return 0.99 if not step else 0.3 if step == "So." else 0.7


# At five times the learning rate, or with no KL, both arms end badly: the one with guards unlearns the end-of-sequence
# token of all responses along with that of the empty one, and is truncated throughout. Guards don't replace the KL.


def run(policy: Path, folder: Path, **changes: object) -> list[dict[str, float]]:
    config = settings(
        policy, folder, reward_mode="PRM", generate_max_len=20, num_episodes=60, actor_learning_rate=2e-4,
        rollout_batch_size=4, micro_rollout_batch_size=4, train_batch_size=32, micro_train_batch_size=32,
        init_kl_coef=0.05, n_samples_per_prompt=8, **changes,
    )  # fmt: skip
    place = Run(config)
    place.open()
    inputs = made_inputs(config, policy, 4)
    trainer = grpo_trl.build(config, inputs, place, Scorer(inputs.tokenizer, loves_empty))
    grpo_trl.fit(config, inputs, place, trainer)
    return rows(place.metrics)


def late(metrics: list[dict[str, float]], name: str) -> float:
    """Mean over the last ten rollouts; one alone is 32 responses, of which a few always differ."""
    return fmean(row[name] for row in metrics[-10:])


def test_without_guards_it_collapses(policy: Path, tmp_path: Path) -> None:
    metrics = run(policy, tmp_path / "run", guards=[], nomask_separator_adv=True)
    assert metrics[0]["length"] > 4
    assert late(metrics, "length") < 2
    assert late(metrics, "steps") < 1.2
    assert late(metrics, "process_reward") > 0.9  # and the reward looks splendid


def test_with_guards_it_does_not(policy: Path, tmp_path: Path) -> None:
    metrics = run(policy, tmp_path / "run")
    assert metrics[0]["guard/empty"] > 4
    assert late(metrics, "guard/empty") < metrics[0]["guard/empty"]
    assert late(metrics, "guard/one_step") < metrics[0]["guard/one_step"]
    assert late(metrics, "steps") > metrics[0]["steps"]
    assert late(metrics, "length") > metrics[0]["length"]
    assert late(metrics, "truncated") < 0.1  # nor does it run away to the other side
