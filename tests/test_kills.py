"""kill -9 at random moments of every entry script; see `killing` for what must hold."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from killing import finished, same_when_killed, served, start
from report_cases import dataset
from stub_server import Body, StubServer

from agentark.types import digest

FEW, MANY = 2, 20
CAP = 3


def solve(body: Body) -> str:
    """A reply in steps; about a third of them are wrong, and no two near duplicates."""
    asked = [str(message["content"]) for message in body["messages"]]
    number = re.search(r"holds (\d+) apples", " ".join(asked))
    right = 2 * int(number[1]) if number else 0
    answer = right + (int(digest(body), 16) % 3 == 0)
    own = digest((body, "words")) + digest((body, "more"))
    words = " ".join(own[index : index + 2] for index in range(0, len(own), 2))
    return f"Each bag holds half of them: {words}.\n\nTwice that is {answer}.\n\nSo the answer is \\boxed{{{answer}}}."


class World:
    """What the scripts read: questions, an endpoint file, and what the scripts before each one have written."""

    def __init__(self, folder: Path, server: StubServer) -> None:
        self.folder, self.server = folder, server
        self.data = dataset(folder / "data", 6)
        endpoint = {"model_name": server.model, "model_url": server.url, "max_workers": CAP}
        (folder / "endpoints.yaml").write_text(json.dumps({"org/served": [endpoint]}))
        self.served = ["--model_api_config", str(folder / "endpoints.yaml"), "--max_concurrency", str(CAP)]
        self.served += ["--reproducible"]  # a seed a call, so that no two requests are the same

    def debate(self, method: str, *more: str) -> list[str]:
        """inference.py with this method."""
        flags = ["--method_name", method, "--test_dataset_name", "GSM8K", "--model_name", "org/served", *self.served]
        return ["inference.py", *flags, "--data_dir", str(self.data), *more, "--output_path", "{out}/debate.jsonl"]

    def made(self, name: str, command: list[str]) -> Path:
        """A file that an undisturbed command writes, once."""
        folder = self.folder / "made" / Path(name).stem
        if not (folder / name).exists():
            finished(start(command, folder), folder)
        return folder / name

    def debates(self) -> Path:
        return self.made("debate.jsonl", self.debate("llm_debate"))

    def labelling(self, *more: str) -> list[str]:
        flags = ["--input", str(self.debates()), "--dataset_name", "GSM8K", "--output", "{out}/labels.jsonl"]
        return ["label.py", *flags, *more]

    def labels(self) -> Path:
        return self.made("labels.jsonl", self.labelling("--rules_only", "--rounds", "all"))

    def served_label(self, *more: str) -> list[str]:
        return self.labelling("--model", "org/served", "--judge_only", *self.served, *more)

    def reasoning(self) -> list[str]:
        flags = ["--dataset_name", "GSM8K", "--input_file", str(self.debates()), "--judge_model", "org/served"]
        return ["-m", "eval.reasoning_eval", *flags, *self.served, "--output_dir", "{out}"]

    def answering(self) -> list[str]:
        flags = ["--dataset_name", "GSM8K", "--model_name_or_path", "org/served", "--data_dir", str(self.data)]
        return ["-m", "eval.math_eval", *flags, *self.served, "--num_samples", "3", "--output_dir", "{out}"]

    def selection(self, *more: str) -> list[str]:
        flags = ["--input", str(self.labels()), "--trajectories", str(self.debates()), "--min_correct", "1"]
        return ["-m", "distill.select", *flags, "--set", "min_reasoning_words=1", *more, "--output", "{out}/set.jsonl"]

    def training_set(self) -> str:
        return str(self.made("set.jsonl", self.selection("--strategy", "rsft")))

    def student(self, model: Path) -> list[str]:
        flags = ["--model_name_or_path", str(model), "--train_data_path", self.training_set(), "--use_cpu"]
        flags += ["--max_steps", "6", "--save_steps", "2", "--logging_steps", "1", "--learning_rate", "1e-3"]
        flags += ["--save_strategy", "steps", "--per_device_train_batch_size", "2", "--disable_tqdm", "true"]
        return ["-m", "distill.sft", *flags, "--output_dir", "{out}/model"]

    def on_policy(self, model: Path) -> list[str]:
        flags = ["--model_name_or_path", str(model), "--train_data_path", str(self.labels()), "--use_cpu", "True"]
        flags += ["--trajectories", str(self.debates()), "--max_completion_length", "24", "--max_steps", "6"]
        flags += ["--save_steps", "2", "--learning_rate", "1e-3", "--per_device_train_batch_size", "2"]
        return ["-m", "distill.opd", *flags, "--disable_tqdm", "true", "--output_dir", "{out}/model"]

    def reward_training(self, model: Path) -> list[str]:
        flags = ["--model_name_or_path", str(model), "--train_data_path", str(self.labels()), "--use_cpu", "True"]
        flags += ["--stage", "both", "--stage_1", "batch_size=4", "num_train_epochs=1", "--stage_2", "batch_size=4"]
        flags += ["num_train_epochs=1", "--save_strategy", "steps", "--save_steps", "2", "--logging_steps", "1"]
        return ["prm/finetune2.py", *flags, "--output_dir", "{out}/prm"]

    def reward_model(self, model: Path) -> Path:
        return self.made("prm/config.json", self.reward_training(model)).parent

    def scoring(self, model: Path) -> list[str]:
        flags = ["--prm", str(self.reward_model(model)), "--input", str(self.labels()), "--max_tokens", "256"]
        return ["-m", "prm.score", *flags, "--output", "{out}/scored.jsonl"]

    def policy(self, model: Path) -> list[str]:
        flags = ["--pretrain", str(model), "--reward_pretrain", str(self.reward_model(model)), "--backend", "trl"]
        flags += ["--prompt_data", "GSM8K", "--prompt_split", "test", "--data_dir", str(self.data), "--max_samples"]
        flags += ["4", "--generation", "hf", "--zero_stage", "0", "--n_samples_per_prompt", "4"]
        flags += ["--rollout_batch_size", "4", "--micro_rollout_batch_size", "4", "--train_batch_size", "8"]
        flags += ["--micro_train_batch_size", "8", "--prompt_max_len", "256", "--generate_max_len", "24"]
        flags += ["--lr_scheduler", "constant", "--max_steps", "4", "--save_steps", "2", "--logging_steps", "1"]
        return ["-m", "openrlhf.cli.train_grpo", *flags, "--save_path", "{out}/policy"]

    def taught(self, steps: int) -> list[str]:
        return ["-m", "study.tiny_model", "--output", "{out}/taught", "--steps", str(steps)]

    def smoke(self) -> list[str]:
        """The smoke test, whose model is there: teaching it has no half to go on from."""
        model = self.made("taught/config.json", self.taught(200)).parent
        recipe = ["--config", "configs/studies/smoke.yaml", "--set", "folder={out}/smoke", "make_model=null"]
        return ["-m", "study", *recipe, f"model={model}", f"label.flags.model={model}"]


SERVED: dict[str, Callable[[World], list[str]]] = {
    "debate": lambda world: world.debate("llm_debate"),
    "label": lambda world: world.served_label(),
    "reasoning": lambda world: world.reasoning(),
    "answers": lambda world: world.answering(),
    "select": lambda world: world.selection("--strategy", "rsft"),
}
MORE: dict[str, Callable[[World], list[str]]] = {
    "self_consistency": lambda world: world.debate("self_consistency"),
    "dylan": lambda world: world.debate("dylan"),
    "mad": lambda world: world.debate("mad"),
    "mav": lambda world: world.debate("mav", "--verifier_models", "org/served"),
    "agentverse": lambda world: world.debate("agentverse"),
    "label steps": lambda world: world.served_label("--granularity", "step", "--rounds", "all"),
    "label calibrated": lambda world: world.served_label("--calibrate"),
    "select da": lambda world: world.selection(
        "--strategy", "da", "--diversity", "llm", "--distiller", "org/served", *world.served
    ),
}


TRAINED: dict[str, Callable[[World, Path], list[str]]] = {
    "model": lambda world, _: world.taught(20),
    "score": World.scoring,
    "sft": World.student,
    "opd": World.on_policy,
    "prm": World.reward_training,
    "grpo": World.policy,
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with served(reply=solve) as server:
        yield World(tmp_path_factory.mktemp("world"), server)


def killed(command: list[str], name: str, world: World, folder: Path, moments: int, pace: float = 1.0) -> None:
    server = world.server if "org/served" in command else None
    figures = same_when_killed(command, folder, moments, server, CAP if server else 0, pace, seed=len(name))
    print(f"\n{name}: {figures}")


@pytest.mark.parametrize("name", SERVED)
def test_killed_a_few_times(name: str, world: World, tmp_path: Path) -> None:
    killed(SERVED[name](world), name, world, tmp_path, FEW)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", [*SERVED, *MORE])
def test_killed_twenty_times(name: str, world: World, tmp_path: Path) -> None:
    killed((SERVED | MORE)[name](world), name, world, tmp_path, MANY)


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("name", TRAINED)
def test_a_training_killed_twenty_times(name: str, world: World, small_model: Path, tmp_path: Path) -> None:
    killed(TRAINED[name](world, small_model), name, world, tmp_path, MANY)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_a_study_killed_twenty_times(world: World, tmp_path: Path) -> None:
    """Most of them in one run, which takes minutes."""
    killed(world.smoke(), "study", world, tmp_path, MANY, pace=0.2)
