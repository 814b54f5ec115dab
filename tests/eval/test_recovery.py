"""The command that continues solutions with a wrong first step."""

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ark_cases
import pytest
from label_cases import debate, write

from agentark import chat_template
from agentark.exam import greedy
from agentark.hub import pretrained
from agentark.types import UserError
from eval import recovery
from eval.ark import __main__ as ark_card

RIGHT = "3 apples and 4 make 7.\n\nSo the answer is \\boxed{7}."


def results(path: Path, count: int = 4) -> Path:
    write(path, *(debate(f"GSM8K/test/{k}", "7", [[RIGHT]], RIGHT) for k in range(count)))
    return path


def asked(folder: Path, model: Path | str, *more: str) -> list[str]:
    argv = ["--input_file", str(results(folder / "a.jsonl")), "--dataset_name", "GSM8K", "--device", "cpu"]
    return [*argv, "--model_name_or_path", str(model), "--output", str(folder / "r.json"), *more]


def test_a_model_that_copies_its_first_step_never_recovers(
    tmp_path: Path, small_model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def copying(model: Any, tokenizer: Any, prompts: Any, new: int, batch: int, begun: Sequence[str]) -> Any:
        assert [prompt[0]["role"] for prompt in prompts] == ["user"] * 8
        return [(f"The answer is \\boxed{{{text.split()[-1].rstrip('.')}}}.", False) for text in begun]

    monkeypatch.setattr(recovery, "greedy", copying)
    assert recovery.main(asked(tmp_path, small_model)) == 0
    made = json.loads((tmp_path / "r.json").read_bytes())
    assert (made["after_wrong"]["value"], made["after_right"]["value"], made["after_wrong"]["n"]) == (0.0, 1.0, 4)
    assert made["after_wrong"]["high"] > 0, "Wilson's interval"
    assert "from a wrong first step: 0.000 ± 0.000 right (0.000 to " in capsys.readouterr().out
    rows = ark_cases.files(tmp_path)
    argv = ["--name", "x", "--rows", *rows, *ark_cases.ROLES, "--output", str(tmp_path / "ark")]
    assert ark_card.main([*argv, "--recovery", f"base={tmp_path / 'r.json'}"]) == 0
    [cell] = json.loads((tmp_path / "ark.json").read_bytes())["cells"]
    assert cell["recovery"]["base"]["after_wrong"] == made["after_wrong"]
    assert "| base | 4 | 0.0 [0.0, 49.0] | 100.0 [51.0, 100.0] |" in capsys.readouterr().out
    for words, expected in (
        (["base"], r"--recovery 'base': expected system=file"),
        ([f"bass={tmp_path / 'r.json'}"], r"--recovery 'bass': no such system .*did you mean base"),
        ([f"base={tmp_path / 'ark.json'}"], r"ark\.json: is not what eval\.recovery writes"),
    ):
        with pytest.raises(UserError, match=expected):
            ark_card.main([*argv, "--recovery", *words])


def test_a_real_model_goes_on(tmp_path: Path, small_model: Path) -> None:
    assert recovery.main(asked(tmp_path, small_model, "--max_tokens", "3", "--max_samples", "2")) == 0
    assert json.loads((tmp_path / "r.json").read_bytes())["after_right"]["n"] == 2


def test_a_reply_that_has_begun_is_continued(small_model: Path) -> None:
    """The model reads the question, ready for its reply, and then the beginning; what comes back is the rest."""
    tokenizer = pretrained("AutoTokenizer", str(small_model))
    rest = tokenizer.encode(" and so on", add_special_tokens=False)
    read = []

    def generate(input_ids: Any, attention_mask: Any, **_: Any) -> Any:
        import torch

        read.extend(row[mask.bool()].tolist() for row, mask in zip(input_ids, attention_mask, strict=True))
        new = torch.tensor([[*rest, tokenizer.eos_token_id]]).repeat(len(input_ids), 1)
        return torch.cat([input_ids, new], dim=1)

    ends = SimpleNamespace(eos_token_id=None)
    model = SimpleNamespace(generation_config=ends, device="cpu", generate=generate)
    prompts = [[{"role": "user", "content": text}] for text in ("one", "one and two")]
    found = greedy(model, tokenizer, prompts, 9, 2, ["First 1.\n\n", "2"])
    assert found == [(" and so on", False)] * 2
    starts = [tokenizer.encode(text, add_special_tokens=False) for text in ("First 1.\n\n", "2")]
    whole = [[*chat_template.ids(tokenizer, prompt), *start] for prompt, start in zip(prompts, starts, strict=True)]
    assert sorted(read) == sorted(whole)


def test_files_without_such_solutions_are_refused(tmp_path: Path, small_model: Path) -> None:
    argv = asked(tmp_path, small_model)
    write(tmp_path / "a.jsonl", debate("GSM8K/test/0", "7", [["It is \\boxed{7}."]]))
    with pytest.raises(UserError, match=r"a\.jsonl: holds no right solution of several steps with a number"):
        recovery.main(argv)
    with pytest.raises(UserError, match=r"--dataset_name HotpotQA: is reported in f1"):
        recovery.main([*argv, "--dataset_name", "HotpotQA"])
