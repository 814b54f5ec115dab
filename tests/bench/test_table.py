"""The generated tables of docs/performance.md."""

import json
import shutil
from pathlib import Path

import pytest

from agentark.types import UserError
from bench import table
from bench.parts.report import ROOT, Row, put, save


def test_ratios_become_a_table_and_other_files_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save([Row("a / b", 1.25, 4.0, 5.0, "s", spread=(1.2, 1.3)), Row("c", 0.5, 2.0, 1.0, "h")], tmp_path / "one.json")
    (tmp_path / "figures.json").write_text(json.dumps({"pairs": 3}))
    (tmp_path / "partial.json").write_text(json.dumps([{"name": "x", "ratio": 1.0}]))
    page = tmp_path / "performance.md"
    page.write_text(f"top\n{table.MARKS[0]}\nold table\n{table.MARKS[1]}\nend\n")
    assert table.main(["--folder", str(tmp_path), "--into", str(page)]) == 0
    shown, said = capsys.readouterr()
    assert said == "left out, no ratios in them: figures.json, partial.json\n"
    text = page.read_text()
    assert text.startswith("top\n")
    assert text.endswith("\nend\n")
    assert "old table" not in text
    for line in ("| a / b | 1.25 | 1.2 to 1.3 | 5 | 4 | s |", "| c | 0.5 |  | 1 | 2 | h |"):
        assert line in text
        assert line in shown
    assert table.main(["--folder", str(tmp_path), "--into", str(page)]) == 0
    assert page.read_text() == text, "a second run changes nothing"


def test_machines_are_not_mixed(tmp_path: Path) -> None:
    save([Row("a", 1.0, 1.0, 1.0, "s")], tmp_path / "one.json")
    (value,) = json.loads((tmp_path / "one.json").read_text())
    (tmp_path / "two.json").write_text(json.dumps([value | {"name": "b", "machine": "GPU box"}]))
    ratios, _ = table.read(tmp_path)
    blocks = table.table(ratios).split("\n\n")
    assert [block.split(",")[0] for block in blocks[::2]] == [value["machine"].split(",")[0], "GPU box"]


@pytest.mark.parametrize(
    "text", ["", f"{table.MARKS[0]}", f"{table.MARKS[1]}\n{table.MARKS[0]}", f"{table.MARKS[0]}\n" * 2]
)
def test_a_page_without_marks_stays_as_it_is(text: str, tmp_path: Path) -> None:
    page = tmp_path / "performance.md"
    page.write_text(text)
    with pytest.raises(UserError, match=r"--into .*: needs a line"):
        put("new", page, table.MARKS, "--into")
    assert page.read_text() == text


def test_docs_performance_has_the_marks(tmp_path: Path) -> None:
    page = tmp_path / "performance.md"
    shutil.copy(ROOT / "docs" / "performance.md", page)
    put("| measured |", page, table.MARKS, "--into")
    assert page.read_text().endswith(f"{table.MARKS[0]}\n\n| measured |\n\n{table.MARKS[1]}\n")


def test_nothing_measured(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no ratios there; run `make bench` first"):
        table.main(["--folder", str(tmp_path)])
