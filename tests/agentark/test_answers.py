import asyncio
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentark import answers
from agentark.answers import (
    Answer,
    boxes,
    close_pool,
    equivalent,
    equivalent_many,
    extract,
    group,
    majority,
    normalize,
    quick_same,
    visible,
)
from agentark.types import AnswerType

CHOICES = ("the nucleus", "the mitochondria", "a ribosome", "none of these")


@pytest.fixture(scope="module", autouse=True)
def pool() -> Iterator[None]:
    yield
    close_pool()


# --- extraction -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value", "how"),
    [
        (r"first \boxed{3}, then \boxed{1,234}", "1234", "boxed"),
        (r"\boxed{7} and, cut off, \boxed{8", "7", "boxed"),
        (r"\boxed{18 \text{ dollars}}", "18", "boxed"),
        (r"\boxed{\text{18 dollars}}", "18", "boxed"),
        (r"\boxed{\$1{,}234.50}", "1234.5", "boxed"),
        (r"\boxed{x = 5}", "5", "boxed"),
        (r"\boxed{137 \frac{1}{2}}", "137.5", "boxed"),
        (r"\boxed{-\dfrac{1}{3}}", "-1/3", "boxed"),
        (r"\boxed{} so 4", "4", "last_number"),
        (r"\boxed{4} #### 5", "4", "boxed"),
        ("work\n#### 1,450,000\n", "1450000", "hash"),
        ("work\r\n#### 42\r\nbye 7", "42", "hash"),
        ("#### Step 2: add 5\nSo the answer is 7 apples.", "7", "answer_is"),
        ("The answer is $1,234.50.", "1234.5", "answer_is"),
        ("The answer is: **12**.", "12", "answer_is"),
        ("**Final Answer:** -3", "-3", "answer_is"),
        ("Answer:\n\n  5 km", "5", "answer_is"),
        ("The answer is 5. The answer is not 6.", "5", "answer_is"),
        ("The answer to the question about 3 cats is 5.", "5", "answer_is"),
        ("Answer: 3 + 4 = 7.", "7", "answer_is"),
        ("The answer is 5 million.", "5000000", "answer_is"),
        ("The answer is 20. She has 4 left.", "20", "answer_is"),
        ("5 - 3 leaves 2.", "2", "last_number"),
        ("that costs $5-$3", "3", "last_number"),
        ("down by -$5", "-5", "last_number"),
        ("x = −3", "-3", "last_number"),
        ("pays 50%.", "50", "last_number"),
        ("half is .5", "0.5", "last_number"),
        ("7 of them on the 3rd day", "7", "last_number"),
        ("9 g of H2O in 2^10", "1024", "last_number"),
        ("so 3/4 cup", "0.75", "last_number"),
        ("<think>it is \\boxed{1}</think>It is 2", "2", "last_number"),
    ],
)
def test_numbers(text: str, value: str, how: str) -> None:
    assert extract(text, "number") == Answer(value, how)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "value", "how"),
    [
        (r"so \boxed{\{1,\frac{2}{3}\}}.", r"\{1,\frac{2}{3}\}", "boxed"),
        (r"\boxed{\left\{ x : x > 2 \right.}", r"\left\{ x : x > 2 \right.", "boxed"),
        (r"\fbox{$x^2$}", "x^2", "boxed"),
        (r"#### \frac{1}{2}", r"\frac{1}{2}", "hash"),
        ("#### 2. Add both sides\nThe answer is $x+1$.", "x+1", "answer_is"),
        (r"The answer is \(x^2+1\), since it fits.", "x^2+1", "answer_is"),
        ("The final answer is:\n\\[\n\\sqrt{2}\n\\]", r"\sqrt{2}", "answer_is"),
        ("The answer is Evelyn.", "Evelyn", "answer_is"),
        ("The final answer is therefore 12 because three plus nine is that", "12", "answer_is"),
        (r"The answer is 11,\! 111.", r"11,\! 111", "answer_is"),
        (r"which is $\frac{3}{4}$.", "0.75", "last_number"),
    ],
)
def test_maths(text: str, value: str, how: str) -> None:
    assert extract(text, "math") == Answer(value, how)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "value", "how"),
    [
        (r"\boxed{B}", "B", "boxed"),
        (r"\boxed{\text{(c)}}", "C", "boxed"),
        (r"\boxed{a ribosome}", "C", "boxed"),
        ("#### D", "D", "hash"),
        ("Answer: B", "B", "answer_is"),
        ("The answer is (B) because it makes ATP.", "B", "answer_is"),
        ("The correct answer is **B. the mitochondria**", "B", "answer_is"),
        ("The answer is a", "A", "answer_is"),
        ("The answer is a ribosome.", "C", "answer_is"),
        ("The answer is option D.", "D", "answer_is"),
        ("(B)", "B", "letter"),
        ("B.", "B", "letter"),
        ("**B**", "B", "letter"),
        ("A", "A", "letter"),
        ("B. the mitochondria", "B", "letter"),
        ("Option A is wrong. The correct option is B", "B", "letter"),
        ("A. foo\nB. bar\nSo I would say (B)", "B", "letter"),
        ("I choose C here", "C", "letter"),
        ("It must be the mitochondria, really.", "B", "option"),
        ("None of these", "D", "option"),
    ],
)
def test_choices(text: str, value: str, how: str) -> None:
    assert extract(text, "choice", CHOICES) == Answer(value, how)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text",
    [
        "A cat sat on the mat.",
        "The answer is A cat that sat.",
        "A long story. I will not tell it.",
        r"\boxed{F}",
        "It is either (A) or (B).",
        "It is not the mitochondria",
        "Either the nucleus or the mitochondria",
    ],
)
def test_no_choice_is_made_up(text: str) -> None:
    assert extract(text, "choice", CHOICES) is None


@pytest.mark.parametrize(
    ("text", "value", "how"),
    [
        ("They met in 1990.\nAnswer: Pedro Rodríguez.", "Pedro Rodríguez", "answer_is"),
        ("Both were. Therefore, the answer is yes.", "yes", "answer_is"),
        (r"\boxed{\text{St. Louis}}", "St. Louis", "boxed"),
        (" Greenwich Village \n", "Greenwich Village", "text"),
        (
            "She said the answer is unclear.\nThen they left.",
            "She said the answer is unclear.\nThen they left.",
            "text",
        ),
        ("#### A heading\nand a body", "#### A heading\nand a body", "text"),
    ],
)
def test_texts(text: str, value: str, how: str) -> None:
    assert extract(text, "text") == Answer(value, how)  # type: ignore[arg-type]


@pytest.mark.parametrize("answer_type", ["number", "math", "choice", "text", "code"])
@pytest.mark.parametrize("text", ["", " \n", r"<think>so \boxed{3} and", "<think>a</think>", "a</think>b<think>5"])
def test_nothing_said_is_no_answer(text: str, answer_type: AnswerType) -> None:
    assert extract(text, answer_type) is None


def test_visible() -> None:
    assert visible("<think>a</think>b<think>c</think> d") == " d"
    assert visible("plain") == "plain"
    assert visible("<think>open") is None


def test_boxes_in_order() -> None:
    assert boxes(r"\boxed{1} \fbox{\text{a}} \boxed 5 \boxed{{2}}\boxed{x") == ["1", r"\text{a}", "5", "{2}"]


ANY_TYPE = st.sampled_from(["number", "math", "choice", "text", "code"])
MESSY = (
    st.lists(
        st.sampled_from([*r"\{}[]()$%#*.,:/^_-=0123456789ABab ", "\n", "\\boxed{", "\\frac", "answer is ", "</think>"])
    ).map("".join)
    | st.text()
)


@given(MESSY, ANY_TYPE)
def test_extract_never_fails_and_finds_something_that_is_there(text: str, answer_type: AnswerType) -> None:
    found = extract(text, answer_type, CHOICES)
    if found is not None:
        assert found.value.strip()
        if answer_type == "choice":
            assert found.value in "ABCD"
        if answer_type in ("math", "text") and found.how in ("boxed", "hash", "text"):
            assert found.value in text


@given(st.integers(-(10**15), 10**15), st.sampled_from(["{}", "{:,}", "{}.0", "${:,}", "+{}"]))
def test_numbers_come_back_however_written(number: int, form: str) -> None:
    if "+" in form and number < 0:
        form = "{}"
    written = form.format(number)
    for reply in (rf"7, then \boxed{{{written}}} and 8", f"7\n#### {written}\n8", f"The answer is {written}.", written):
        found = extract(reply, "number")
        assert found is not None
        assert found.value == str(number)


@given(st.fractions(max_denominator=10**6))
def test_normalised_numbers_are_exact(number: Fraction) -> None:
    assert Fraction(normalize(str(number), "number")) == number
    assert normalize(rf"\frac{{{number.numerator}}}{{{number.denominator}}}", "math") == normalize(str(number), "math")


@given(
    st.recursive(st.sampled_from(["x", "1", r"\{", r"\}"]), lambda inner: st.builds("{{{}}}{}".format, inner, inner))
)
def test_boxes_nest(content: str) -> None:
    assert boxes(rf"a \boxed{{{content}}} b }} c") == [content]


@given(st.sampled_from("ABCD"), st.sampled_from(["({})", "{}.", "{})", "**{}**", "Answer: {}", r"\boxed{{{}}}", "{}"]))
def test_letters_come_back_however_written(letter: str, form: str) -> None:
    found = extract(f"Let me think.\n{form.format(letter)}", "choice", CHOICES)
    assert found is not None
    assert found.value == letter


@given(st.lists(st.sampled_from(["cell", "wall", "is", "thin", "and", "grows"]), min_size=1))
def test_the_article_is_never_a_letter(words: list[str]) -> None:
    assert extract(f"A {' '.join(words)}.", "choice", CHOICES) is None


@pytest.mark.parametrize(
    "text",
    [
        "1" * 50_000,
        "{" * 50_000,
        r"\boxed{" * 5_000,
        r"\boxed{" + r"\text{" * 5_000 + "}" * 5_001,
        "answer is " * 5_000,
        "A " * 20_000,
        "$" * 20_000,
        "word " * 20_000,
        " " * 50_000 + "5",
        "答案" * 20_000,
        r"\boxed{1} and " * 5_000,
        "<answer>" * 5_000,
        "5\nQuestion: x" * 5_000,
        r"\boxed{1}" + " " * 20_000 + r"\boxed{2}",
    ],
    ids=lambda text: text[:12],
)
def test_degenerate_replies_cost_little(text: str) -> None:
    """A looping model writes such replies; a quadratic scan would hold up every other sample."""
    start = time.perf_counter()
    for answer_type in ("number", "math", "choice", "text"):
        extract(text, answer_type, CHOICES)  # type: ignore[arg-type]
    assert time.perf_counter() - start < 4


# --- sameness -------------------------------------------------------------------------------------------------------

QUICK = [
    ("1,234", "1234", "number", True),
    ("0.5", "1/2", "number", True),
    ("0.5", ".5", "number", True),
    (r"\frac 59", r"\dfrac{5}{9}", "math", True),
    (r"\$32,\!348", "32348", "math", True),
    (r"11,\! 111,\! 111,\! 100", "11111111100", "math", True),
    (r"864 \mbox{ inches}^2", "864", "math", True),
    (r"90^\circ", "90", "math", True),
    (r"50\%", "50", "math", True),
    ("3, 5, 7", "3,5,7", "math", True),
    (r"\text{Evelyn}", "Evelyn", "math", True),
    (r"\left( 3, \frac{\pi}{2} \right)", r"(3,\frac{\pi}{2})", "math", True),
    ("5 million", "5,000,000", "number", True),
    ("50", "0.5", "number", False),
    ("50", "0.5", "math", False),
    ("50%", "0.5", "math", False),
    ("5", "500", "math", False),
    ("1,2", "12", "math", False),
    ("(3,1)", "[3,1]", "math", False),
    ("(3,1]", "[3,1]", "math", False),
    (r"\{1,2\}", "(1,2)", "math", False),
    (r"(-\infty,2)\cup(3,\infty)", r"(-\infty,2]\cup[3,\infty)", "math", False),
    ("Evelyn", "nylevE", "math", False),
    ("5 million", "5", "number", False),
    ("b", "(B)", "choice", True),
    ("A", "B", "choice", False),
    ("The U.S.", "us", "text", True),
    ("yes", "no", "text", False),
    ("2(3)", "23", "math", None),
    ("x=5", "5", "math", None),
    ("(a+5)(b+2)", "(b+2)(a+5)", "math", None),
]


@pytest.mark.parametrize(("a", "b", "answer_type", "same"), QUICK)
def test_quick_same(a: str, b: str, answer_type: AnswerType, same: bool | None) -> None:
    assert quick_same(a, b, answer_type) is same
    assert quick_same(b, a, answer_type) is same


@given(MESSY, MESSY, ANY_TYPE)
def test_quick_same_is_reflexive_and_symmetric(a: str, b: str, answer_type: AnswerType) -> None:
    assert quick_same(a, a, answer_type) is True
    assert quick_same(a, b, answer_type) is quick_same(b, a, answer_type)


ALGEBRA = [
    ("2(3)", "6", True),
    ("2(3)", "23", False),
    ("2(3)", "5", False),
    ("(2)(3)", "6", True),
    ("2(x+1)", "2x+2", True),
    (r"\log_2(8)", "3", True),
    ("x=5", "5", True),
    ("y = -2x", "-2x", True),
    ("(a+5)(b+2)", "ab+2a+5b+10", True),
    (r"\sqrt{8}", r"2\sqrt{2}", True),
    (r"11\sqrt2", r"\sqrt{242}", True),
    (r"1 \pm \sqrt{19}", r"1+\sqrt{19}, 1-\sqrt{19}", True),
    ("1,-2", "-2,1", True),
    ("(3,1)", "(1,3)", False),
    ("(3,1)", "3,1", True),
    (r"\{1,2\}", "2,1", True),
    ("x<2", r"(-\infty,2)", True),
    (r"x \in [-2,7]", "[-2,7]", True),
    (r"(-\infty,2]", r"x<2", False),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{bmatrix}1\\2\end{bmatrix}", True),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}2\\1\end{pmatrix}", False),
    ("52_8", "52", True),  # the base is taken as said by the question
    ("x+1", "y+1", False),
    ("12", r"12\pi", False),
    (r"\pi", "3.14", False),
    (r"\text{odd}", "even", False),
    ("}{ not maths \\", "7", False),
]


def test_algebra_and_its_symmetry() -> None:
    pairs: list[tuple[str, str, AnswerType]] = [(a, b, "math") for a, b, _ in ALGEBRA]
    expected = {(a, b): same for a, b, same in ALGEBRA}
    verdicts = dict(zip([(a, b) for a, b, _ in pairs], equivalent_many(pairs), strict=True))
    assert verdicts == expected
    mirrored = equivalent_many([(b, a, t) for a, b, t in pairs])
    assert dict(zip(expected, mirrored, strict=True)) == expected


def test_group_and_majority() -> None:
    given_answers = [None, "y", r"\sqrt{4}", "2", None, "1/2", "0.5", "x=2", r"\frac12"]
    assert asyncio.run(group(given_answers, "math")) == [None, 1, 2, 2, None, 5, 5, 2, 5]
    assert asyncio.run(majority(given_answers, "math")) == 2  # three each: the first seen
    assert asyncio.run(majority([*given_answers, ".5"], "math")) == 5
    assert asyncio.run(majority(["B", "(b)", "A"], "choice")) == 0
    assert asyncio.run(majority([None, None], "math")) is None
    assert asyncio.run(majority([], "math")) is None


def test_a_hanging_comparison_is_killed_and_reported_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(answers, "_TIMEOUT", 1.0)
    answers._warned.clear()
    equivalent_many([("x+x", "2x", "math")])  # the workers are up

    async def all_three() -> list[bool]:
        hanging = (equivalent("10^{10^{10}}", f"3^{{3^{{3{n}}}}}", "math") for n in (0, 1))
        return await asyncio.gather(*hanging, equivalent("a+a", "2a", "math"))

    start = time.perf_counter()
    with caplog.at_level(logging.WARNING):
        assert asyncio.run(all_three()) == [False, False, True]
    assert time.perf_counter() - start < 15
    assert len(caplog.records) == 1
    assert "no verdict" in caplog.text


def test_a_dying_worker_is_no_answer(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    answers._warned.clear()
    equivalent_many([("x+x", "2x", "math")])
    assert answers._pool is not None
    dying = answers._pool.schedule(os._exit, args=(3,))
    monkeypatch.setattr(answers, "_schedule", lambda a, b: dying)
    assert equivalent_many([("x+x", "2x", "math")])[0] is False
    assert "worker process died" in caplog.text


def test_close_pool_ends_the_workers_and_the_next_use_starts_new_ones() -> None:
    assert equivalent_many([("x+x", "2x", "math")])[0]
    close_pool()
    assert answers._pool is None
    close_pool()
    assert equivalent_many([("x+x", "2x", "math")])[0]


def test_importing_is_light_and_workers_know_no_torch() -> None:
    code = (
        "import sys, agentark.answers as answers\n"
        "heavy = {'sympy', 'math_verify', 'pebble', 'torch', 'numpy', 'datasets'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "answers._start_worker()\n"
        "assert 'sympy' in sys.modules\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
