"""The parts of a run that both backends share: checked inputs, prompts, and the folder of the run."""

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from agentark import cli, contamination, jsonl
from agentark.files import json_of, write_atomically
from agentark.hub import context_length, model_config, pretrained
from agentark.records import now
from agentark.run_folder import RunFolder
from agentark.types import Sample, UserError, digest
from distill.grpo.config import GRPOConfig, resolved
from distill.grpo.questions import Prompt, fit, has_gold, questions, questions_of_prm, render
from prm.steps import StepCodec, load_tokenizer

FEW_VERIFIABLE = 0.1
"""A run with a smaller share of verifiable prompts gets a warning."""
BESIDE = {
    *("dry_run", "overwrite", "logging_steps", "save_steps", "max_ckpt_num", "report_to", "run_name", "eval_steps"),
    *("alarms", "stops", "data_dir", "ray_address", "vllm_server_url", "vllm_gpu_memory_utilization", "scorer"),
    *("scorer_replicas", "scorer_batch_tokens", "backend", "max_steps"),
}
"""Settings that do not affect the result, and may change when a run continues."""


def say(line: str) -> None:
    """One line for the user, from the first process only."""
    if int(os.environ.get("RANK", "0")) == 0:
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()


class Inputs(NamedTuple):
    """All checked inputs of a run."""

    model: str
    """Where the policy is loaded from: a folder or hub id."""
    label: str
    """The policy's name in the manifest."""
    tokenizer: Any
    codec: StepCodec | None
    """The reward model's splitter; None without a reward model."""
    prompts: list[Prompt]
    held_out: list[Prompt]
    prompt_limit: int
    eos: frozenset[int]
    """Ids that end a response."""


def prepare(config: GRPOConfig) -> Inputs:
    """Check the models and make the prompts; prints what it did, a line each.

    Raises:
        UserError: a policy or reward model that does not fit, or too few questions.
    """
    model, label = cli.resolve_model(config.pretrain, "--pretrain")
    tokenizer = load_tokenizer(model, "--pretrain")
    context, eos = _about(model, tokenizer)
    codec = reward_codec(Path(config.reward_pretrain or ""), tokenizer) if config.mode.process else None
    if codec is not None and codec.settings.step_unit == "solution" and not config.mode.whole_response:
        raise UserError(
            f"--reward_pretrain {config.reward_pretrain}: was trained with --step_unit solution and scores whole "
            "responses; use --reward_mode ORM"
        )
    limit, line = fit(config.prompt_max_len, config.generate_max_len, context)
    if line is not None:
        say(line)
    asked, held = ask(config)
    _check_gold(config, asked)
    prompts = render(asked, tokenizer, config.enable_thinking, limit)
    held_out = render(held, tokenizer, config.enable_thinking, limit)
    if too_long := len(asked) - len(prompts):
        say(f"dropped {too_long} of {len(asked)} prompts: longer than {limit} tokens")
    if len(prompts) < config.rollout_batch_size:
        raise UserError(
            f"--rollout_batch_size {config.rollout_batch_size}: only {len(prompts)} prompts are left, fewer than "
            "one rollout; lower it, or give more with --prompt_data"
        )
    rest = len(prompts) % config.rollout_batch_size
    say(
        f"{len(prompts)} prompts in rollouts of {config.rollout_batch_size}"
        + (f"; {rest} of them, drawn anew each episode, do not fill one and are left out" if rest else "")
    )
    return Inputs(model, label, tokenizer, codec, prompts, held_out, limit, eos)


def ask(config: GRPOConfig) -> tuple[list[Sample], list[Sample]]:
    """(questions to train on, questions held out). No question is in both."""
    if config.prompt_data:
        asked = questions(config.prompt_data, config.prompt_split, config.data_dir, "--prompt_data")
    elif config.mode.process:
        asked = questions_of_prm(Path(config.reward_pretrain or ""))
    else:
        raise UserError("--prompt_data: is missing (without a reward model there are no questions to fall back on)")
    held = questions(config.eval_data, config.eval_split, config.data_dir, "--eval_data", held_out=True)
    held = held[: config.eval_samples]
    shared = {sample.id for sample in held}
    kept = [sample for sample in asked if sample.id not in shared]
    if len(kept) < len(asked):
        say(f"left out {len(asked) - len(kept)} questions that are held out in --eval_data")
    return kept[: config.max_samples], held


def _check_gold(config: GRPOConfig, asked: Sequence[Sample]) -> None:
    gold = sum(map(has_gold, asked))
    if config.mode.verified and not gold:
        raise UserError(
            f"--reward_mode {config.reward_mode}: none of the {len(asked)} questions has a gold answer that can be "
            "checked; use PRM, or other --prompt_data"
        )
    if config.mode.process and gold < FEW_VERIFIABLE * len(asked):
        say(f"warning: {gold} of {len(asked)} questions can be verified; below {FEW_VERIFIABLE:.0%} rewards drift")


def _about(model: str, tokenizer: Any) -> tuple[int | None, frozenset[int]]:
    """(context length, ids that end a response) of the policy."""
    about = model_config(model, "--pretrain")
    try:
        named = pretrained("GenerationConfig", model).eos_token_id
    except OSError:  # there is no generation_config.json
        named = about.get_text_config().eos_token_id
    ids = set(named) if isinstance(named, list) else {named}
    return context_length(about), frozenset((ids | {tokenizer.eos_token_id}) - {None})


def reward_codec(folder: Path, tokenizer: Any) -> StepCodec:
    """The splitter of a reward model, after checking that the model fits the policy.

    Raises:
        UserError: the folder is missing, or its model lacks a head of 2 labels, is not ours, or has another tokenizer.
    """
    flag = f"--reward_pretrain {folder}"
    if not (folder / "config.json").is_file():
        raise UserError(f"{flag}: no model there (prm/finetune2.py makes one)")
    about = json_of(folder / "config.json")
    named, names = about.get("architectures"), about.get("id2label")
    head = str(named[0]) if isinstance(named, list) and named else "no architecture"
    labels = len(names) if isinstance(names, dict) and names else about.get("num_labels", 2)
    if not head.endswith("ForTokenClassification") or labels != 2:
        raise UserError(f"{flag}: is a {head} with {labels} labels, not a token classification model with 2")
    codec = StepCodec.load(folder)
    if codec.tokenizer.get_vocab() != tokenizer.get_vocab():
        raise UserError(
            f"{flag}: has another tokenizer ({type(codec.tokenizer).__name__}, {len(codec.tokenizer)} tokens) than the "
            f"policy {tokenizer.name_or_path} ({type(tokenizer).__name__}, {len(tokenizer)} tokens)"
        )
    return codec


# ---------------------------------------------------------------- the folder of a run


class Run(RunFolder):
    """`save_path`: the settings that decide the run, and whether the run is new, stopped or done."""

    record = ("run.json", "identity")
    all_settings = True

    def __init__(self, config: GRPOConfig) -> None:
        folder = Path(config.save_path)
        identity = {name: value for name, value in config.model_dump().items() if name not in BESIDE}
        elsewhere = [Path(config.ckpt_path)] if config.ckpt_path else []
        super().__init__(
            folder, identity, kind="grpo", flag="--save_path", replaces=config.overwrite, elsewhere=elsewhere
        )
        self.config = config
        self.metrics = folder / "metrics.jsonl"
        self.dev = folder / "dev.jsonl"

    def claim(self, say: Callable[[str], None], **values: Any) -> None:
        """See RunFolder; also stores the settings there for other processes."""
        super().claim(say, **values)
        if self._main:
            about = {"identity": self.identity, "config": self.config.model_dump()}
            write_atomically(self.folder / self.record[0], json.dumps(about).encode())

    def close(self, inputs: Inputs, stopped: Sequence[str], figures: Mapping[str, Any]) -> None:
        """Write manifest.json: the run is done."""
        ids = {prompt.sample.id for prompt in inputs.prompts} | set(contamination.trained_on(Path(inputs.model)))
        self.write(
            stage="grpo",
            base_model=inputs.label,
            reward_model=self.config.reward_pretrain,
            settings=resolved(self.config),
            config_hash=digest(self.identity),
            prompts=len(inputs.prompts),
            prompt_max_len=inputs.prompt_limit,
            stopped=list(stopped),
            metrics=dict(figures),
            finished=now(),
            command=cli.command_line(),
            versions=cli.provenance(),
            train_ids=sorted(ids),
        )


def rows(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics file; none if the file does not exist."""
    return list(jsonl.decoded(path, dict[str, Any], "a JSON object")) if path.is_file() else []
