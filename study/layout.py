"""The paths of a study's files, and the names it may use.

<folder>/train      trajectories of the teachers and their labels
<folder>/sets       training sets
<folder>/students   models: fine-tuned ones and policies
<folder>/prm        reward models
<folder>/eval       answers and figures, a folder per set of questions
<folder>/worth      what eval.team says of the team;  ark: what its students keep
<folder>/logs       logs of every step;  study.json: how far the study is;  table.md, report/: its results
"""

from collections.abc import Iterable
from pathlib import PurePosixPath

from agentark.config import ROOT, nearest
from agentark.embedded import MODELS
from agentark.tasks import get_task
from agentark.types import UserError
from methods import method_class
from study.recipe import Study
from study.step import slug

STATE = "study.json"
BASE = "base"
"""Name of the study's model as a system, without further training."""


class Layout:
    """The names and paths of a study.

    Raises:
        UserError: a name that the recipe does not define, or two systems that would be written to the same place.
    """

    def __init__(self, study: Study) -> None:
        self.study = study
        self.folder = PurePosixPath(study.folder)
        self._check()

    @property
    def rows(self) -> list[str]:
        """The systems, in the order of the table."""
        return [BASE, *self.measured, *self.students, *self.study.policies]

    @property
    def measured(self) -> list[str]:
        """The teachers that are rows of the table."""
        return [name for name, teacher in self.study.teachers.items() if teacher.measured]

    @property
    def judged_on(self) -> str:
        """The questions on which eval.team judges, in words."""
        worth = self.study.worth
        return "train" if worth is not None and worth.questions == "train" else next(iter(self.study.tests))

    @property
    def students(self) -> list[str]:
        """The students that are trained."""
        return [name for name, student in self.study.students.items() if student.trained]

    @property
    def teachers(self) -> list[str]:
        """The teachers whose trajectories are used for training."""
        return [name for name, teacher in self.study.teachers.items() if teacher.train]

    def _check(self) -> None:
        study = self.study
        rows = [BASE, *study.teachers, *study.students, *study.policies]
        named = {"system": rows, "test": [*study.tests], "reward model": [*study.prms], "contrast": [*study.contrasts]}
        for kind, names in named.items():
            for index, name in enumerate(names):
                if not slug(name) or any(sign in name for sign in "/="):
                    raise UserError(f"{kind} {name!r}: a name has letters or digits, and neither / nor =")
                if slug(name) in map(slug, names[:index]):
                    raise UserError(f"{kind} {name!r}: another one would be written to the same place")
        if not self.teachers:
            raise UserError("teachers: none has train: true, so students have nothing to learn from")
        if self._is_folder(study.model) and PurePosixPath(study.model).name in map(slug, rows[1:]):
            raise UserError(f"model: {study.model}: a system has the same name; rename the folder")
        for teacher in study.teachers.values():
            method_class(teacher.method)
        get_task(study.train.dataset)
        for name, test in study.tests.items():
            if not get_task(test.dataset).graded:
                raise UserError(f"tests.{name}: nothing grades answers to {test.dataset}")
        for name, tests in study.pools.items():
            if name in study.tests:
                raise UserError(f"pools.{name}: a test has the same name")
            known(f"pools.{name}", tests, study.tests)
        for name, student in study.students.items():
            known(f"students.{name}.teachers", student.teachers or [], self.teachers)
            if (student.select is None) == (student.opd is None):
                raise UserError(
                    f"students.{name}: needs either select (flags of distill.select) or opd (of distill.opd)"
                )
            if student.opd is not None and (student.match or student.sft or not student.trained):
                raise UserError(f"students.{name}: match, sft and trained: false go with select, not with opd")
            above = [*study.students][: [*study.students].index(name)]
            known(f"students.{name}.match", student.match, [one for one in above if study.students[one].opd is None])
        for name, reward in study.prms.items():
            known(f"prms.{name}.teacher", [reward.teacher] if reward.teacher else [], self.teachers)
        for name, policy in study.policies.items():
            known(f"policies.{name}.start", [policy.start], [BASE, *self.students])
            known(f"policies.{name}.prm", [policy.prm] if policy.prm else [], study.prms)
            known(f"policies.{name}.teacher", [policy.teacher] if policy.teacher else [], self.teachers)

        for name, pair in study.contrasts.items():
            known(f"contrasts.{name}", pair, self.rows)
        self._check_worth()

    def _check_worth(self) -> None:
        """Raises UserError for a comparison of eval.team that cannot be made."""
        worth = self.study.worth
        if worth is None:
            if self.study.gate:
                raise UserError("gate: needs worth, which says what eval.team compares")
            return
        answering = self.teachers if worth.questions == "train" else self.measured
        named = {"team": [worth.team], "vote": [worth.vote] if worth.vote else []}
        named |= {"members": worth.members, "others": worth.others}
        for key, names in named.items():
            known(f"worth.{key}", names, answering)
        listed = [name for key, names in named.items() for name in names if (key, name) != ("vote", worth.team)]
        for name in listed:
            if listed.count(name) > 1:
                raise UserError(f"worth: {name!r} is there twice (the team alone may also be the vote)")
        if worth.team == worth.vote and not worth.others:
            raise UserError("worth.others: names no team beside which the vote is judged")
        asked = self.study.train if worth.questions == "train" else next(iter(self.study.tests.values()))
        if (metric := get_task(asked.dataset).metric) != "accuracy":
            raise UserError(f"worth: {self.judged_on} is reported in {metric}: nothing to vote on")

    def at(self, *parts: str) -> str:
        return str(self.folder.joinpath(*parts))

    def trajectories(self, teacher: str) -> str:
        """Results file of a teacher on the training questions."""
        return self.at("train", f"{slug(teacher)}_infer.jsonl")

    def labels(self, teacher: str) -> str:
        return self.at("train", f"{slug(teacher)}_labels.jsonl")

    def training_set(self, student: str) -> str:
        return self.at("sets", f"{slug(student)}.jsonl")

    def model_of(self, row: str) -> str:
        """The model of a system: its folder, or the name of the base model."""
        return self.study.model if row == BASE else self.at("students", slug(row))

    def prm(self, name: str) -> str:
        return self.at("prm", slug(name))

    def answers(self, row: str, test: str) -> str:
        """Folder with a model's answers to a set, and their figures."""
        model = self.model_of(row)
        local = row != BASE or self._is_folder(model)
        label = PurePosixPath(model).name if local else model
        return self.at("eval", slug(test), self.study.tests[test].dataset, label, self.grader(test, short=True))

    def judged(self, row: str) -> str:
        """Results file of base or a teacher that eval.team reads."""
        worth = self.study.worth
        if worth is not None and worth.questions == "train":
            return self.trajectories(row)
        return self.results(row, next(iter(self.study.tests)))

    def results(self, row: str, test: str) -> str:
        """Results file of base or a teacher on a set."""
        if row == BASE:
            return str(PurePosixPath(self.answers(BASE, test)) / "vanilla_infer.jsonl")
        return self.at("eval", slug(test), f"{slug(row)}_infer.jsonl")

    def grader(self, test: str, short: bool = False) -> str:
        """The grader of answers to a set: the module, or its name in paths."""
        name = f"{get_task(self.study.tests[test].dataset).grader}_eval"
        return name if short else f"eval.{name}"

    def _is_folder(self, model: str) -> bool:
        """Whether a model's name is a folder, now or after its step has run."""
        if model in MODELS:
            return False
        made = self.study.make_model is not None or self.study.lab is not None
        return made or model.startswith((".", "/", "~")) or (ROOT / model).is_dir()

    def graded(self, row: str, test: str) -> str:
        """per_sample.jsonl of a system on a set."""
        if row in self.study.teachers:
            return self.at("eval", slug(test), f"{slug(row)}_infer.{self.grader(test, short=True)}.per_sample.jsonl")
        return str(PurePosixPath(self.answers(row, test)) / "per_sample.jsonl")


def answering_steps(system: str, test: str) -> list[str]:
    """Names of the steps that may make and grade the answers of a system to a set."""
    return [f"{stage} {system} on {test}{end}" for stage in ("baselines", "evaluate") for end in ("", ", graded")]


def training_steps(system: str) -> list[str]:
    """Names of the steps that may train a system."""
    return [f"{stage} {system}" for stage in ("sft", "opd", "grpo")]


def known(where: str, names: Iterable[str], names_known: Iterable[str]) -> None:
    """Raises UserError for the first name that is not known."""
    listed = list(names_known)
    for name in names:
        if name not in listed:
            raise UserError(f"{where}: no {name!r} ({nearest(name, listed)})")
