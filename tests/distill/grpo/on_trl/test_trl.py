"""The TRL backend on the small random model: counts, credit, KL, resume, saving, stops."""

import json
import re
from pathlib import Path

import pytest
import torch
from grpo_cases import Scorer, made_inputs, settings

from agentark import checkpoints
from agentark.health import STOPPED
from agentark.types import UserError
from distill.grpo.on_trl import run as grpo_trl
from distill.grpo.run import Run, rows


def build(model: Path, folder: Path, **changes):
    config = settings(model, folder, **{"guards": []} | changes)  # an untrained model hits them all
    run = Run(config)
    run.open()
    inputs = made_inputs(config, model)
    scorer = Scorer(inputs.tokenizer, lambda question, step, number: 0.9 if len(step) % 2 else 0.2)
    trainer = grpo_trl.build(config, inputs, run, scorer if config.mode.process else None)
    return config, inputs, run, trainer, scorer


def test_counts_are_those_of_the_readme(small_model: Path, tmp_path: Path) -> None:
    config, inputs, run, trainer, scorer = build(small_model, tmp_path / "run")
    forwards: list[int] = []
    logps = trainer._get_per_token_logps_and_entropies
    generated: list[int] = []
    generate = trainer.model.generate

    def counted(model, ids, *args, **kwargs):
        if torch.is_grad_enabled():
            forwards.append(ids.size(0))
        return logps(model, ids, *args, **kwargs)

    def counted_generate(*args, **kwargs):
        generated.append(kwargs["input_ids"].size(0))
        return generate(*args, **kwargs)

    trainer._get_per_token_logps_and_entropies = counted
    trainer.model.generate = counted_generate
    assert grpo_trl.fit(config, inputs, run, trainer) == 0
    assert trainer.state.global_step == 4  # 8 prompts / 4 per rollout x (4 x 4 samples / 8 per step)
    assert generated == [2 * 4] * 4  # micro_rollout_batch_size prompts x samples at once
    assert set(forwards) == {4}  # micro_train_batch_size samples at once
    assert len(forwards) * 4 == 2 * config.total_samples
    assert scorer.sizes == [8] * 4
    table = [json.loads(line) for path in sorted((tmp_path / "run" / "completions").iterdir())
             for line in path.read_text().splitlines()]  # fmt: skip
    assert len(table) == 2 * config.total_samples
    assert [row["id"] for row in table[:4]] == [table[0]["id"]] * 4
    assert all(len(step) == 2 for row in table for step in row["steps"])
    last = rows(run.metrics)[-1]
    assert last["step"] == 4
    assert {"kl", "process_reward", "solved", "steps", "length", "truncated", "guard/empty", "seconds/rollout",
            "seconds/reward", "seconds/reference"} <= rows(run.metrics)[0].keys()  # fmt: skip
    assert (tmp_path / "run" / "curves.png").stat().st_size > 1000
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["train_ids"] == [f"sum/{n}" for n in range(8)]
    assert run.open()


def test_kl_is_in_the_reward_or_in_the_loss(small_model: Path, tmp_path: Path) -> None:
    config, inputs, run, trainer, _ = build(small_model, tmp_path / "reward", init_kl_coef=0.5)
    assert trainer.beta == 0.0
    assert trainer.ref_model is None
    grpo_trl.fit(config, inputs, run, trainer)
    kl = [row["kl"] for row in rows(run.metrics) if "kl" in row]
    assert kl[0] == pytest.approx(0.0, abs=1e-5)
    assert abs(kl[1]) > 1e-4
    *_, trainer, _ = build(small_model, tmp_path / "loss", init_kl_coef=0.5, use_kl_loss=True)
    assert trainer.beta == 0.5
    assert trainer.ref_model is not None
    assert trainer._reference is None
    assert trainer._kl({}) is None
    *_, trainer, _ = build(small_model, tmp_path / "none", init_kl_coef=0.0)
    assert (trainer.beta, trainer.ref_model, trainer._reference) == (0.0, None, None)


def test_gradient_of_the_loss_by_hand(small_model: Path, tmp_path: Path) -> None:
    """Clipped ratios and ratio x k3, summed over response tokens, over those of the samples of a step."""
    config, *_, trainer, _ = build(small_model, tmp_path / "loss", init_kl_coef=0.5, use_kl_loss=True)
    trainer.model.train()
    batch = next(iter(trainer.get_train_dataloader()))
    inputs = trainer._prepare_inputs(batch)
    trainer.current_gradient_accumulation_steps = trainer.args.gradient_accumulation_steps
    mask = inputs["completion_mask"]
    torch.manual_seed(0)
    reference = inputs["ref_per_token_logps"] + torch.randn(mask.shape)
    inputs = inputs | {"ref_per_token_logps": reference, "old_per_token_logps": None}
    seen = {}

    def logps(*args, **kwargs):
        found = original(*args, **kwargs)
        seen["policy"] = found[0].detach().clone().requires_grad_()
        return seen["policy"], *found[1:]

    original, trainer._get_per_token_logps_and_entropies = trainer._get_per_token_logps_and_entropies, logps
    trainer._compute_loss(trainer.model, inputs).backward()
    d = seen["policy"].detach() - reference
    steps = config.total_samples // config.train_batch_size  # optimiser steps a rollout
    tokens = inputs["num_items_in_batch"] / steps
    expected = (-inputs["advantages"] + 0.5 * d) * mask / tokens
    torch.testing.assert_close(seen["policy"].grad, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", ["k1", "k2", "k3"])
def test_kl_estimators(kind: str) -> None:
    from distill.grpo.on_trl.trainer import estimate

    ratio = torch.tensor([0.0, 0.3, -0.7], dtype=torch.float64)
    expected = {"k1": ratio, "k2": ratio**2 / 2, "k3": torch.exp(-ratio) - 1 + ratio}[kind]
    torch.testing.assert_close(estimate(ratio, kind), expected)


def test_advantages_are_per_token(small_model: Path, tmp_path: Path) -> None:
    """What upstream's loss gets is what credit assignment made of this rollout, zero outside the responses."""
    from distill.grpo.guards import guarded_credit

    config, _, _, trainer, _ = build(small_model, tmp_path / "run", init_kl_coef=0.0)
    trainer.model.train()
    batch = next(iter(trainer.get_train_dataloader()))
    out = trainer._generate_and_score_completions(batch)
    wanted = guarded_credit(config, trainer._everyone, None)
    torch.testing.assert_close(out["advantages"], wanted.advantages)
    assert out["advantages"].shape == out["completion_mask"].shape
    assert not out["advantages"][out["completion_mask"] == 0].any()
    assert out["advantages"].std() > 0


def test_a_group_of_hits_teaches_nothing(small_model: Path, tmp_path: Path) -> None:
    *_, trainer, _ = build(small_model, tmp_path / "run", init_kl_coef=0.0, guards=["truncated"], reward_mode="PRM")
    trainer.model.train()
    out = trainer._generate_and_score_completions(next(iter(trainer.get_train_dataloader())))
    assert all(one.hits == ("truncated",) for one in trainer._everyone)
    assert not out["advantages"].any()


def test_a_killed_run_goes_on(small_model: Path, tmp_path: Path) -> None:
    from transformers import TrainerCallback

    class Dies(TrainerCallback):
        def on_step_begin(self, args, state, control, **_):
            if state.global_step == 3:
                raise KeyboardInterrupt

    config, inputs, run, trainer, _ = build(small_model, tmp_path / "run", save_steps=2)
    trainer.add_callback(Dies())
    with pytest.raises(KeyboardInterrupt):
        grpo_trl.fit(config, inputs, run, trainer)
    torn = config.checkpoints / "checkpoint-3"
    torn.mkdir()
    (torn / "trainer_state.json").write_text('{"global_step": 3')
    said: list[str] = []
    assert checkpoints.newest(config.checkpoints, run, said.append) == config.checkpoints / "checkpoint-2"
    assert re.search(r"checkpoint-3: left out \(its manifest does not name this run", *said)
    assert [row["step"] for row in rows(run.metrics)] == [1, 2, 3]
    config, inputs, run, trainer, scorer = build(small_model, tmp_path / "run", save_steps=2)
    assert grpo_trl.fit(config, inputs, run, trainer) == 0
    assert [row["step"] for row in rows(run.metrics)] == [1, 2, 3, 4]
    assert scorer.sizes == [8, 8]  # only the second rollout
    assert len(trainer.watch.history) == 2


def test_checkpoints_are_of_whole_rollouts(
    small_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run that goes on from one samples no rollout again."""
    from transformers import TrainerCallback

    class Dies(TrainerCallback):
        def on_step_begin(self, args, state, control, **_):
            if state.global_step == 3:
                raise KeyboardInterrupt

    texts = []
    for name in ("whole", "killed"):
        config, inputs, run, trainer, _ = build(small_model, tmp_path / name, save_steps=1)
        assert capsys.readouterr().out.count("--save_steps 1: a rollout makes 2 optimizer steps; saving every 2") == 1
        if name == "killed":
            trainer.add_callback(Dies())
            with pytest.raises(KeyboardInterrupt):
                grpo_trl.fit(config, inputs, run, trainer)
            config, inputs, run, trainer, _ = build(small_model, tmp_path / name, save_steps=1)
        assert grpo_trl.fit(config, inputs, run, trainer) == 0
        assert sorted(path.name for path in config.checkpoints.glob("*-*")) == ["checkpoint-2", "checkpoint-4"]
        texts.append([file.read_text() for file in sorted((run.folder / "completions").iterdir())])
    assert len(texts[0]) == 2
    assert texts[0] == texts[1]


@pytest.mark.parametrize(("asked", "epochs", "saved"), [(1, 1, 2), (2, 1, 2), (3, 1, 4), (5, 2, 8), (8, 2, 8)])
def test_steps_between_checkpoints(small_model: Path, tmp_path: Path, asked: int, epochs: int, saved: int) -> None:
    config = settings(small_model, tmp_path / "run", save_steps=asked, max_epochs=epochs)
    assert grpo_trl.arguments(config, 64).save_steps == saved


@pytest.mark.parametrize("changes", [{"adam_betas": [2.0, 0.9]}, {"lr_scheduler": "no_such"}])
def test_settings_that_the_optimizer_refuses(small_model: Path, tmp_path: Path, changes: dict[str, object]) -> None:
    with pytest.raises(UserError, match=r"Invalid beta|no_such"):
        build(small_model, tmp_path / "run", **changes)
    assert not (tmp_path / "run" / "manifest.json").exists()


def test_a_continued_run_has_its_episodes_in_the_same_orders(small_model: Path, tmp_path: Path) -> None:
    from transformers import TrainerCallback

    class Dies(TrainerCallback):
        def on_step_begin(self, args, state, control, **_):
            if state.global_step == 5:
                raise KeyboardInterrupt

    orders = []
    for name in ("whole", "killed"):
        config, inputs, run, trainer, _ = build(small_model, tmp_path / name, save_steps=4, num_episodes=2)
        if name == "killed":
            trainer.add_callback(Dies())
            with pytest.raises(KeyboardInterrupt):
                grpo_trl.fit(config, inputs, run, trainer)
            config, inputs, run, trainer, _ = build(small_model, tmp_path / name, save_steps=4, num_episodes=2)
        assert grpo_trl.fit(config, inputs, run, trainer) == 0
        files = sorted((run.folder / "completions").iterdir())
        orders.append([[json.loads(line)["id"] for line in file.read_text().splitlines()] for file in files])
    assert len(orders[0]) == 4
    assert orders[0][:2] != orders[0][2:]
    assert orders[0] == orders[1]


def test_the_saved_folder_is_a_plain_model(small_model: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    config, inputs, run, trainer, _ = build(small_model, tmp_path / "run")
    grpo_trl.fit(config, inputs, run, trainer)
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "run", use_safetensors=True)
    base = AutoModelForCausalLM.from_pretrained(small_model)
    ids = torch.tensor([[5, 6, 7]])
    torch.testing.assert_close(saved(ids).logits, trainer.model(ids).logits)
    assert (saved(ids).logits - base(ids).logits).abs().max() > 1e-4
    assert AutoTokenizer.from_pretrained(tmp_path / "run").get_vocab() == inputs.tokenizer.get_vocab()
    assert not list((tmp_path / "run").glob("*.bin"))


def test_an_adapter_is_merged(small_model: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    config, inputs, run, trainer, _ = build(
        small_model, tmp_path / "run", lora_rank=4, actor_learning_rate=0.05, init_kl_coef=0.1
    )
    assert trainer._reference is None
    grpo_trl.fit(config, inputs, run, trainer)
    kl = [row["kl"] for row in rows(run.metrics) if "kl" in row]
    assert kl[0] == pytest.approx(0.0, abs=1e-5)
    assert abs(kl[1]) > 1e-5
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "run")
    ids = torch.tensor([[5, 6, 7]])
    torch.testing.assert_close(saved(ids).logits, trainer.model(ids).logits, atol=1e-4, rtol=1e-3)


def test_a_crossed_bound_saves_and_stops(small_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, inputs, run, trainer, _ = build(
        small_model, tmp_path / "run", stops={"truncated": 0.1, "kl": None, "length_drop": None}
    )
    assert grpo_trl.fit(config, inputs, run, trainer) == STOPPED
    assert trainer.state.global_step == 1
    assert "responses are truncated" in capsys.readouterr().out
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["stopped"] == trainer.stopped
    assert (tmp_path / "run" / "model.safetensors").is_file()


def test_held_out_accuracy(small_model: Path, tmp_path: Path) -> None:
    from distill.grpo.on_trl.held_out import greedy

    config, inputs, run, trainer, _ = build(small_model, tmp_path / "run", eval_steps=2)
    inputs = inputs._replace(held_out=inputs.prompts[:5])
    texts = greedy(trainer, inputs.held_out)
    assert len(texts) == 5
    assert texts == greedy(trainer, inputs.held_out)
    alone = [greedy(trainer, [one])[0] for one in inputs.held_out]
    assert texts == alone
    grpo_trl.fit(config, inputs, run, trainer)
    assert [row["step"] for row in rows(run.dev)] == [0, 2, 4]
    assert all(row["n"] == 5 for row in rows(run.dev))
