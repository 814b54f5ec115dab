"""The steps of a study, in order: the command of each, its inputs and its outputs."""

from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

from agentark import judge
from agentark.config import ROOT
from distill.select.choose import CONFIG as SELECT_CONFIG
from methods import configs_of
from prm.settings import TWO_STAGE
from study.layout import BASE, STATE, Layout
from study.recipe import Flags, Questions, Study, Teacher, Value
from study.step import Step, slug

STAGES = (
    *("model", "baselines", "worth", "inference", "label", "select", "sft", "opd", "prm", "grpo"),
    *("evaluate", "table", "ark", "report"),
)  # fmt: skip
"""Base and teachers are measured first, because selection avoids the questions that base answered."""
PROGRAMS = {
    "model": ["-m", "study.tiny_model"],
    "lab": ["-m", "study.lab"],
    "worth": ["-m", "eval.team"],
    "inference": ["inference.py"],
    "label": ["label.py"],
    "select": ["-m", "distill.select"],
    "sft": ["-m", "distill.sft"],
    "opd": ["-m", "distill.opd"],
    "prm": ["prm/finetune2.py"],
    "score": ["-m", "prm.score"],
    "check": ["-m", "prm.evaluate"],
    "grpo": ["-m", "openrlhf.cli.train_grpo"],
    "table": ["-m", "study.table"],
    "ark": ["-m", "eval.ark"],
    "report": ["-m", "eval.report"],
}
HF_BOOLEANS = ("sft", "opd", "prm")
"""Programs whose switches take True and False."""
READ_FROM = {
    *("--input", "--input_file", "--model_name", "--model", "--model_name_or_path", "--pretrain", "--distiller"),
    *("--reward_pretrain", "--prompt_data", "--eval_data", "--data_dir", "--eval_data_dir", "--train_data_path"),
    *("--eval_data_path", "--contamination", "--trajectories", "--config", "--two_stage_config", "--prm"),
    *("--deepspeed", "--lora_path", "--verifier_models", "--match", "--team", "--teacher"),
}  # fmt: skip
"""Flags that may name a file or folder."""


class PlannedStep(Step, frozen=True, kw_only=True):
    """A command of the study, and its dependencies."""

    stage: str
    program: list[str]
    """The command without its flags."""
    flags: dict[str, list[str]]
    inputs: list[str]
    """Files and folders that the step reads."""
    outputs: list[str]
    """Files (with all files whose names begin alike) and folders that only this step writes."""
    sources: dict[str, str]
    """Input -> the step that makes it."""
    after: list[str]
    """Steps that this step builds on."""
    grows: bool = False
    """If it is asked for more samples, it adds to its output."""
    absorbs: bool = False
    """If its input has grown, it adds to its output."""
    rewrites: bool = False
    """It replaces its output, which is derived in seconds."""
    restarts: bool = False
    """It refuses to change its output once the output exists."""


class Plan(Layout):
    """All steps of a study; see `Layout`."""

    def __init__(self, study: Study) -> None:
        super().__init__(study)
        self.steps: list[PlannedStep] = []
        self._made: dict[str, str] = {}
        self._model()
        self._baselines()
        if study.worth is None or study.worth.questions == "test":  # where the gate stays closed, nothing more is asked
            self._worth()
            self._train()
        else:
            self._train()
            self._worth()
        self._students()
        self._prms()
        self._policies()
        self._results()

    def _add(
        self,
        stage: str,
        what: str,
        program: str | list[str],
        *layers: Flags,
        outputs: Sequence[str],
        more: Iterable[str] = (),
        after: Iterable[str] = (),
        launcher: Sequence[str] = (),
        **traits: bool,
    ) -> None:
        """Append a step.

        Args:
            layers: layers of flags; later layers win.
            more: inputs besides the files in its flags.
        """
        hf = program in HF_BOOLEANS
        words = PROGRAMS[program] if isinstance(program, str) else program
        given = {f"--{name}": value for layer in layers for name, value in layer.items()}
        flags = {name: texts for name, value in given.items() if (texts := _texts(value, hf)) is not None}
        named = [text for name, texts in flags.items() if name in READ_FROM for text in texts]
        inputs = [path for path in dict.fromkeys([*named, *more]) if self._maker(path) or (ROOT / path).exists()]
        command = [*launcher, *words, *(word for name, texts in flags.items() for word in (name, *texts))]
        sources = {path: maker for path in inputs if (maker := self._maker(path))}
        name = f"{stage} {what}".strip()
        self.steps.append(
            PlannedStep(
                name, command, stage=stage, program=[*launcher, *words], flags=flags, inputs=inputs,
                outputs=list(outputs), sources=sources,
                after=list(dict.fromkeys([*after, *sources.values()])), **traits,
            )
        )  # fmt: skip
        self._made |= dict.fromkeys(outputs, name)

    def _maker(self, path: str) -> str | None:
        """The step that makes a file or folder, or the folder that contains it."""
        wanted = PurePosixPath(path)
        names = map(str, (wanted, *wanted.parents))
        return next((self._made[name] for name in names if name in self._made), None)

    def _model(self) -> None:
        if self.study.make_model is not None:
            flags: Flags = {"output": self.study.model, "seed": self.study.seed}
            self._add("model", "", "model", flags, self.study.make_model, outputs=[self.study.model])
        if self.study.lab is not None:
            flags = {"output": self.at("models"), "seed": self.study.seed, **self.study.lab}
            self._add("model", "", "lab", flags, outputs=[str(flags["output"])])

    def _baselines(self) -> None:
        """Systems of one model one after another: they share an engine (study/lending.py)."""
        measured = {name: teacher for name, teacher in self.study.teachers.items() if teacher.measured}
        models = {name: teacher.model or self.study.model for name, teacher in measured.items()}
        for model in dict.fromkeys([self.study.model, *models.values()]):
            for test in self.study.tests:
                if model == self.study.model:
                    self._evaluate("baselines", BASE, test)
                for name, teacher in measured.items():
                    if models[name] == model:
                        self._measure(name, teacher, test)

    def _measure(self, name: str, teacher: Teacher, test: str) -> None:
        questions, graded = self.study.tests[test], self.graded(name, test)
        output = self.results(name, test)
        self._infer("baselines", f"{name} on {test}", teacher, questions, output)
        self._add(
            "baselines", f"{name} on {test}, graded", ["-m", self.grader(test)],
            {"input_file": output, "dataset_name": questions.dataset, "seed": self.study.seed}, questions.flags,
            outputs=[graded, graded.replace("per_sample.jsonl", "metrics.json")], rewrites=True,
        )  # fmt: skip

    def _infer(self, stage: str, what: str, teacher: Teacher, questions: Questions, output: str) -> None:
        study = self.study
        flags: Flags = {"method_name": teacher.method, "test_dataset_name": questions.dataset}
        flags |= {"model_name": teacher.model or study.model, "output_path": output}
        folder = next(iter(configs_of(teacher.method).values())).parent.relative_to(ROOT)
        self._add(
            stage, what, "inference", flags, self._questions(questions), study.engine, study.inference.flags,
            teacher.flags, outputs=[output], more=[str(folder)], launcher=study.inference.launcher, grows=True,
        )  # fmt: skip

    def _questions(self, questions: Questions) -> Flags:
        flags: Flags = {"split": questions.split, "max_samples": questions.max_samples, "data_dir": questions.data_dir}
        options: list[Value] = [*questions.task_config]
        return {**flags, "task_config": options or None, "seed": self.study.seed}

    def _evaluate(self, stage: str, row: str, test: str) -> None:
        study, questions = self.study, self.study.tests[test]
        flags: Flags = {"model_name_or_path": self.model_of(row), "dataset_name": questions.dataset}
        flags["output_dir"] = self.at("eval", slug(test))
        program = ["-m", self.grader(test)]
        self._add(
            stage, f"{row} on {test}", program, flags, self._questions(questions), study.engine, study.evaluate.flags,
            questions.flags, outputs=[self.answers(row, test)], launcher=study.evaluate.launcher, grows=True,
        )  # fmt: skip

    def _worth(self) -> None:
        worth = self.study.worth
        if worth is None:
            return
        alone = [BASE] if worth.questions == "test" else []
        named = [*alone, *worth.members, *filter(None, [worth.vote]), worth.team, *worth.others]
        files = [self.judged(name) for name in dict.fromkeys(named)]
        self._add(
            "worth", "", [*PROGRAMS["worth"], *files], {"output_dir": self.at("worth")}, worth.flags,
            outputs=[self.at("worth")], more=files, rewrites=True,
        )  # fmt: skip

    def _train(self) -> None:
        study = self.study
        for name in self.teachers:
            self._infer("inference", name, study.teachers[name], study.train, self.trajectories(name))
        for name in self.teachers:
            flags: Flags = {"input": self.trajectories(name), "dataset_name": study.train.dataset}
            engine = {} if study.label.flags.get("rules_only") is True else study.engine
            prompts = (judge.FOLDER / "default.yaml").relative_to(ROOT)
            self._add(
                "label", name, "label", flags, {"output": self.labels(name)}, engine, study.label.flags,
                outputs=[self.labels(name)], more=[str(prompts)], launcher=study.label.launcher, absorbs=True,
            )  # fmt: skip

    def _students(self) -> None:
        study = self.study
        clear: list[Value] = [self.results(BASE, name) for name, test in study.tests.items() if test.clear]
        for name, student in study.students.items():
            teachers, output = student.teachers or self.teachers, self.training_set(name)
            if student.select is None:
                continue
            flags: Flags = {
                "input": [self.labels(teacher) for teacher in teachers],
                "output": output,
                "contamination": clear or None,
                "match": [self.training_set(other) for other in student.match] or None,
            }
            chosen = study.select | student.select
            engine = study.engine if chosen.get("distiller") is not None else {}
            more = [*map(self.trajectories, teachers), str(SELECT_CONFIG.relative_to(ROOT))]
            self._add(
                "select", name, "select", flags, engine, chosen, outputs=[output], more=more, restarts=True,
            )  # fmt: skip
        for name in self.students:
            flags = {"model_name_or_path": study.model, "train_data_path": self.training_set(name)}
            flags |= {"output_dir": self.model_of(name), "seed": study.seed}
            if (on_policy := study.students[name].opd) is not None:
                teachers = study.students[name].teachers or self.teachers
                flags |= {"train_data_path": [*map(self.labels, teachers)], "contamination": clear or None}
                self._add(
                    "opd", name, "opd", flags, study.opd.flags, on_policy, outputs=[self.model_of(name)],
                    more=map(self.trajectories, teachers), launcher=study.opd.launcher,
                )  # fmt: skip
                continue
            self._add(
                "sft", name, "sft", flags, study.sft.flags, study.students[name].sft, outputs=[self.model_of(name)],
                launcher=study.sft.launcher,
            )  # fmt: skip

    def _prms(self) -> None:
        study = self.study
        for name, reward in study.prms.items():
            labels, folder = self.labels(reward.teacher or self.teachers[0]), self.prm(name)
            flags: Flags = {"model_name_or_path": reward.model or study.model, "train_data_path": labels}
            flags |= {"output_dir": folder, "seed": study.seed}
            more = [str(TWO_STAGE.relative_to(ROOT))] if reward.flags.get("stage") == "both" else []
            self._add(
                "prm", name, "prm", flags, reward.flags, outputs=[folder], more=more, launcher=reward.launcher,
            )  # fmt: skip
            given: Flags = {"prm": folder, "input": labels}
            if reward.check is not None:
                output = self.at("prm", f"{slug(name)}_check", "evaluation.json")
                self._add(
                    "prm", f"{name}, checked", "check", given, {"output": output}, reward.check, outputs=[output],
                    rewrites=True,
                )  # fmt: skip
            if reward.score:
                scored = labels.removesuffix(".jsonl") + "_scored.jsonl"
                self._add("prm", f"{name}, scores", "score", given, outputs=[scored], rewrites=True)

    def _policies(self) -> None:
        study = self.study
        for name, policy in study.policies.items():
            reward = study.prms[policy.prm] if policy.prm else None
            teacher = policy.teacher or (reward.teacher if reward else None) or self.teachers[0]
            flags: Flags = {"pretrain": self.model_of(policy.start), "save_path": self.model_of(name)}
            flags |= {"reward_pretrain": self.prm(policy.prm) if policy.prm else None}
            flags |= {"prompt_data": [self.labels(teacher)], "seed": study.seed}
            self._add(
                "grpo", name, "grpo", flags, study.grpo.flags, policy.flags, outputs=[self.model_of(name)],
                launcher=study.grpo.launcher,
            )  # fmt: skip

    def _results(self) -> None:
        study = self.study
        for row in (*self.students, *study.policies):
            for test in study.tests:
                self._evaluate("evaluate", row, test)
        rows = {f"{test}/{row}": self.graded(row, test) for test in study.tests for row in self.rows}
        flags: Flags = {"rows": [f"{row}={path}" for row, path in rows.items()], "output": self.at("table")}
        flags["pool"] = [f"{name}={','.join(tests)}" for name, tests in study.pools.items()] or None
        flags["contrast"] = [f"{name}={'/'.join(pair)}" for name, pair in study.contrasts.items()] or None
        flags["study"] = self.at(STATE)
        outputs = [self.at(f"table.{kind}") for kind in ("md", "json")]
        self._add(
            "table", "", "table", flags, {"seed": study.seed}, outputs=outputs, more=rows.values(), rewrites=True,
        )  # fmt: skip
        self._ark()
        sets = any(student.opd is None for student in study.students.values())
        folders = {"train": True, "sets": sets, "students": bool(self.students or study.policies)}
        folders |= {"prm": bool(study.prms), "eval": True}
        folders |= {"ark": any(step.stage == "ark" for step in self.steps)}
        results: list[Value] = [self.at(name) for name, there in folders.items() if there]
        self._add(
            "report", "", "report", {"results": results, "output": self.at("report")}, study.report.flags,
            outputs=[self.at("report")], after=[step.name for step in self.steps], rewrites=True,
        )  # fmt: skip

    def _ark(self) -> None:
        study, worth = self.study, self.study.worth
        if worth is None or worth.team not in self.measured:
            return
        members = [name for name in worth.members if name in self.measured]
        vote = worth.vote if worth.vote in self.measured else None
        systems = [BASE, *dict.fromkeys([*members, *filter(None, [vote]), worth.team])]
        systems += [*self.students, *study.policies]
        rows = {f"{test}/{row}": self.graded(row, test) for test in study.tests for row in systems}
        flags: Flags = {"name": self.folder.name or "study", "rows": [f"{row}={path}" for row, path in rows.items()]}
        flags |= {"best": BASE, "team": worth.team, "vote": vote, "members": [*members] or None}
        flags |= {"worth": self.at("worth", "team.json"), "output": self.at("ark", "ark"), "seed": study.seed}
        self._add(
            "ark", "", "ark", flags, outputs=[self.at("ark")],
            more=[*rows.values(), self.at("worth", "team.json")], rewrites=True,
        )  # fmt: skip


def _texts(value: Value | list[Value] | None, hf: bool) -> list[str] | None:
    """A flag's values as words; None: leave the flag out."""
    if value is None or (value is False and not hf):
        return None
    if isinstance(value, bool):
        return [] if value else ["False"]
    return [str(word) for word in value] if isinstance(value, list) else [str(value)]
