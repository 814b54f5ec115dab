"""Flags of GRPO: the user's command, each flag on both backends, bad input, the dry run."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from upstream_openrlhf import upstream_arguments

from agentark.types import UserError
from distill.grpo import __main__ as grpo
from distill.grpo import cli
from distill.grpo.cli import REFUSED
from distill.grpo.config import GRPOConfig
from distill.grpo.on_openrlhf import run as grpo_openrlhf
from distill.grpo.on_openrlhf.flags import FLAGS, OURS, Layout, arguments
from distill.grpo.on_openrlhf.run import upstream_parser

ROOT = Path(__file__).parents[3]
GOLDEN = Path(__file__).with_name("golden_dry_run.txt")
README = shlex.split(
    """
    --pretrain Qwen/Qwen3-0.6B --reward_pretrain outputs/prm_qmsum --save_path outputs/grpo_qmsum --temperature 0.5
    --n_samples_per_prompt 8 --advantage_estimator rloo --reward_baseline token --reward_mode PRMVR
    --verifiable_reward_coef 1.0 --micro_rollout_batch_size 4 --rollout_batch_size 64 --micro_train_batch_size 2
    --train_batch_size 128 --actor_learning_rate 5e-7 --init_kl_coef 0.001 --max_epochs 1 --num_episodes 1
    --prompt_max_len 40960 --generate_max_len 2048 --zero_stage 2 --bf16 --flash_attn --gradient_checkpointing
    --save_steps 20 --logging_steps 1
    """
)


def read(*more: str) -> GRPOConfig:
    return cli.read([*README, *more])


def test_every_field_has_one_place() -> None:
    fields = set(GRPOConfig.model_fields)
    theirs = {field for flag in FLAGS for field in flag.fields.split()}
    assert theirs | set(OURS) == fields
    assert not theirs & set(OURS)
    assert len({flag.name for flag in FLAGS}) == len(FLAGS)
    assert not set(REFUSED) & fields
    for name, field in GRPOConfig.model_fields.items():
        assert field.description, name


def table() -> str:
    """Every flag and what becomes of it on OpenRLHF, as markdown."""
    rows = ["| Flag | OpenRLHF 0.11.2 | Meaning |", "|---|---|---|"]
    for name, field in GRPOConfig.model_fields.items():
        theirs = ", ".join(f"`{flag.name}`" for flag in FLAGS if name in flag.fields.split())
        meaning = " ".join((field.description or "").split())
        rows.append(f"| `--{name}` | {theirs or f'ours: {OURS[name]}'} | {meaning} |")
    return "\n".join(rows + [f"| `--{name}` | refused | {reason} |" for name, reason in REFUSED.items()])


def test_the_readme_has_every_flag() -> None:
    assert table() in (ROOT / "distill" / "grpo" / "README.md").read_text(encoding="utf-8")


def test_upstream_flags_exist_upstream() -> None:
    known = {option for action in upstream_parser()._actions for option in action.option_strings}
    assert {flag.name for flag in FLAGS} <= known
    assert {word for word in arguments(read(), Layout.planned(read())) if word.startswith("--")} <= known


@pytest.mark.parametrize(
    "more",
    [
        [],
        ["--advantage_estimator", "gae"],
        ["--advantage_estimator", "reinforce", "--reward_mode", "ORM"],
        ["--advantage_estimator", "group_norm", "--reward_mode", "VR", "--use_kl_loss"],
        ["--reward_baseline", "step", "--reward_mode", "PRM", "--lora_rank", "8", "--zero_stage", "3"],
        ["--eval_data", "GSM8K", "--eval_steps", "20", "--report_to", "tensorboard", "wandb", "--separate"],
        ["--upstream", "--ds.packing_samples --vllm.enforce_eager", "--actor_num_gpus_per_node", "4"],
        ["--advantage_estimator", "rloo", "--n_samples_per_prompt", "4", "--init_kl_coef", "0"],
    ],
)
def test_upstream_takes_what_we_make(more: list[str]) -> None:
    """The README's combinations, parsed and checked by upstream's real main block."""
    config = read(*more)
    args = upstream_arguments(arguments(config, Layout.planned(config)))
    assert args.actor.model_name_or_path == "Qwen/Qwen3-0.6B"
    assert args.reward.remote_url == ["agent"]
    assert args.algo.advantage.estimator == config.advantage_estimator
    assert (args.critic.model_name_or_path is None) == (config.advantage_estimator != "gae")
    assert args.rollout.batch_size * args.rollout.n_samples_per_prompt == config.total_samples
    assert args.rollout.micro_batch_size == 4 * config.n_samples_per_prompt  # prompts per GPU during rollout
    assert args.train.micro_batch_size == 2  # samples per GPU during training
    assert args.train.batch_size == 128
    assert args.data.max_len == 40960 + 2048
    assert args.ckpt.output_dir == "outputs/grpo_qmsum"
    assert args.ckpt.path == "outputs/grpo_qmsum/checkpoints"
    assert args.actor.adam.lr == 5e-7
    assert args.algo.kl.init_coef == config.init_kl_coef
    assert args.algo.kl.use_loss == config.use_kl_loss
    assert args.ds.attn_implementation == "flash_attention_2"
    assert args.ds.packing_samples == ("packing" in config.upstream)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--n_samples_per_prompt", "2"], "--n_samples_per_prompt 2: .*--force_small_groups"),
        (["--n_samples_per_prompt", "1", "--force_small_groups"], "--n_samples_per_prompt 1: rloo compares"),
        (["--train_batch_size", "100"], "--train_batch_size 100: .*512 samples.*nearest that do: 64 or 128"),
        (["--train_batch_size", "1024"], "--train_batch_size 1024: .*nearest that do: 512"),
        (["--micro_train_batch_size", "3"], "--train_batch_size 128: .*nearest that are: 126 or 129"),
        (["--micro_rollout_batch_size", "5"], "--rollout_batch_size 64: .*nearest that are: 60 or 65"),
        (["--temprature", "1"], "unknown argument --temprature .did you mean --temperature"),
        (["--actor.adam.lr", "1"], "--actor.adam.lr: a flag of OpenRLHF itself; .*--upstream"),
        (["--remote_rm_url", "x"], "--remote_rm_url: rewards come from --reward_pretrain"),
        (["--temperature", "0"], "temperature = 0.0"),
        (["--reward_mode", "XYZ"], "--reward_mode"),
        (["--stops", "klx=1"], "--stops: unknown key 'klx'.*did you mean kl"),
        (["--use_kl_loss", "--init_kl_coef", "0"], "--use_kl_loss"),
        (["--generation", "vllm_server"], "--vllm_server_url"),
    ],
)
def test_bad_flags_are_one_line(more: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        read(*more)
    assert "\n" not in str(caught.value)


def test_small_groups_can_be_forced() -> None:
    assert read("--n_samples_per_prompt", "2", "--force_small_groups").n_samples_per_prompt == 2


def test_processes_count_in_the_batch_check() -> None:
    with pytest.raises(UserError, match="2 x 3 processes; the nearest that are: 126 or 132"):
        cli.check(read(), 3)
    cli.check(read(), 4)


def test_missing_prm_is_named() -> None:
    with pytest.raises(UserError, match="--reward_pretrain: is missing"):
        cli.read(["--pretrain", "x", "--save_path", "y"])
    assert cli.read(["--pretrain", "x", "--save_path", "y", "--reward_mode", "VR"]).reward_pretrain is None


def test_unknown_upstream_flag_is_refused() -> None:
    config = read("--upstream", "--actor.no_such_flag 3")
    with pytest.raises(UserError, match=r"--upstream .*no_such_flag"):
        grpo_openrlhf.parse_upstream(config, Layout.planned(config))


@pytest.mark.parametrize("flag", ["--train.async_enable", "--reward.remote_url=http://x", "--data.apply_chat_template"])
def test_upstream_flags_that_would_undo_ours(flag: str) -> None:
    config = read("--upstream", flag)
    with pytest.raises(UserError, match="is not possible here"):
        grpo_openrlhf.parse_upstream(config, Layout.planned(config))


def test_gae_on_trl_is_one_line() -> None:
    with pytest.raises(UserError, match="--advantage_estimator gae: TRL's GRPO has no value head"):
        grpo.choose_backend(read("--advantage_estimator", "gae", "--backend", "trl"))


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "grpo").glob("*.yaml")), ids=lambda path: path.name)
def test_recipes_load(path: Path) -> None:
    words = ["--config", str(path), "--pretrain", "x", "--save_path", "y", "--reward_pretrain", "z"]
    assert set(yaml.safe_load(path.read_text())) <= set(cli.read(words).model_dump())


def test_flags_override_a_config(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("pretrain: a\nsave_path: b\nreward_mode: VR\ntemperature: 0.7\nstops: {kl: 1.5}\n")
    config = cli.read(["--config", str(path), "--temperature", "0.9"])
    assert (config.pretrain, config.temperature, config.bounds()[1].kl) == ("a", 0.9, 1.5)
    path.write_text("temperatur: 0.7\n")
    with pytest.raises(UserError, match=r"run\.yaml: unknown key 'temperatur'.*did you mean temperature"):
        cli.read(["--config", str(path)])


def test_dry_run_is_golden() -> None:
    """The user's command, from the repo root, with nothing of what it names."""
    done = subprocess.run(
        [sys.executable, "-m", "openrlhf.cli.train_grpo", *README, "--backend", "openrlhf", "--dry_run"],
        cwd=ROOT, capture_output=True, text=True, check=False, env={"PATH": "", "CUDA_VISIBLE_DEVICES": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == GOLDEN.read_text(encoding="utf-8")
    assert not (ROOT / "outputs" / "grpo_qmsum").exists()


NEW_MODE = """
from distill.grpo import modes
modes.MODES["ORMVR"] = modes.ModeSpec(process=True, verified=True, whole_response=True)
from distill.grpo import cli
from distill.grpo.guards import guarded_credit
from distill.grpo.reward import Scored, StepScores
command = "--pretrain x --save_path y --reward_mode ORMVR --n_samples_per_prompt 4 --init_kl_coef 0 --no_advantage_norm"
config = cli.read([*command.split(), "--reward_pretrain", "z", "--rollout_batch_size", "4", "--train_batch_size", "16"])
scored = [Scored(text="", length=2, steps=StepScores([""], [1], [score]), solved=solved)
          for score, solved in ((0.9, 1.0), (0.1, 1.0), (0.9, 0.0), (0.1, 0.0))]
print(config.mode, *guarded_credit(config, scored, None).returns[:, 0].tolist(), sep="\\n")
"""


def test_a_reward_mode_is_a_line_in_the_table() -> None:
    """Nothing else has to know a new mode: the flag takes it, and credit has both parts of it."""
    done = subprocess.run([sys.executable, "-c", NEW_MODE], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    mode, *returns = done.stdout.splitlines()
    assert mode == "ModeSpec(process=True, verified=True, whole_response=True)"
    both, verdict, process, neither = map(float, returns)
    assert both > process > verdict > neither
