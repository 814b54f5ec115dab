"""Metrics of predictions against their references. Pure: text in, numbers out; all in [0, 1].

BERTScore alone needs a model, which the caller names.
"""

import functools
import math
import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from agentark.hub import offline_unless_reachable
from agentark.quiet import hide_loading_bars

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_OTHER_LETTER = re.compile(r"[^\W\x00-\x7f]")
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff]"
)
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_PUNCTUATION_TO_SPACE = str.maketrans(dict.fromkeys(string.punctuation, " "))
_TYPOGRAPHIC = str.maketrans(
    "\u2018\u2019\u201a\u201c\u201d\u201e\u00ab\u00bb\u2039\u203a\u2032\u2033\u2010\u2011\u2012\u2013\u2014\u2015\u2212",
    "'''" + '"' * 5 + "'''" + '"' + "-" * 7,
)
_MEANINGFUL = ("<sup", "<sub", "<fra")

PUBLISHED_STOP_WORDS = {
    *("a", "an", "and", "are", "as", "at", "be", "by", "for", "from", "has", "he", "in"),
    *("is", "it", "its", "of", "on", "that", "the", "to", "was", "will", "with"),
}
"""The 24 words that the published code's F1 leaves out of both sides."""


class EncoderUnavailable(Exception):
    """The encoder of BERTScore cannot be loaded; the text says why, in one line."""


def fold(text: str) -> str:
    """Typographic quotes and dashes as their ASCII forms, full-width and decomposed letters as plain ones.

    Superscripts, subscripts and fractions stay: 5² is not 52.
    """
    if text.isascii():
        return text
    plain = (
        char if unicodedata.decomposition(char)[:4] in _MEANINGFUL else unicodedata.normalize("NFKC", char)
        for char in text
    )
    return unicodedata.normalize("NFC", "".join(plain)).translate(_TYPOGRAPHIC)


def squad_normalize(text: str) -> str:
    """Lower case, no ASCII punctuation, no articles, single spaces; typographic and Unicode forms are folded before.

    Source: the SQuAD 1.1 evaluation script, which knows ASCII only and folds nothing.
    """
    return " ".join(_ARTICLES.sub(" ", fold(text).lower().translate(_PUNCTUATION)).split())


def exact_match(prediction: str, references: Sequence[str]) -> float:
    """1.0 when the prediction equals a reference after SQuAD normalisation, else 0.0."""
    return float(any(squad_normalize(prediction) == squad_normalize(reference) for reference in references))


def f1(prediction: str, references: Sequence[str]) -> float:
    """Token F1 after SQuAD normalisation, in [0, 1], the best over the references."""
    predicted = squad_normalize(prediction).split()
    return max(_overlap(predicted, squad_normalize(reference).split()) for reference in references)


def f1_published(prediction: str, references: Sequence[str]) -> float:
    """Token F1 as the published code computes it, the best over the references; for comparison only.

    Punctuation becomes a space instead of nothing, and 24 stop words are dropped from both sides. Two sides that
    consist of nothing else score 0 even where they are identical ("it is" against "it is").
    """
    predicted = _published_tokens(prediction)
    gold = [_published_tokens(reference) for reference in references]
    return max(_overlap(predicted, one) if predicted and one else 0.0 for one in gold)


def _published_tokens(text: str) -> list[str]:
    words = text.lower().translate(_PUNCTUATION_TO_SPACE).split()
    return [word for word in words if word not in PUBLISHED_STOP_WORDS]


def _overlap(predicted: Sequence[str], gold: Sequence[str]) -> float:
    if not predicted or not gold:
        return float(predicted == gold)
    shared = sum((Counter(predicted) & Counter(gold)).values())
    return 2 * shared / (len(predicted) + len(gold))


def rouge(prediction: str, references: Sequence[str]) -> dict[str, float]:
    """ROUGE-1, ROUGE-2 and ROUGE-L F-measures with the Porter stemmer, each the best over the references.

    Returns:
        `{"rouge1": ..., "rouge2": ..., "rougeL": ...}`, each in [0, 1].
    """
    scorer = _rouge_scorer(rouge_tokenizer(prediction, references))
    scores = [scorer.score(reference, prediction) for reference in references]
    return {name: max(float(score[name].fmeasure) for score in scores) for name in ("rouge1", "rouge2", "rougeL")}


def rouge_tokenizer(prediction: str, references: Sequence[str]) -> Literal["rouge_score", "unicode"]:
    """The tokenizer of ROUGE: rouge_score's own (a-z and 0-9), unless a text has other letters or digits."""
    return "unicode" if any(_OTHER_LETTER.search(text) for text in (prediction, *references)) else "rouge_score"


class UnicodeTokenizer:
    """rouge_score's tokenizer for all scripts: letters and digits with their marks, after NFKC; stemmed words.

    Each character is a word where the script puts no spaces (Chinese, Japanese, Thai, Lao, Khmer, Burmese).
    """

    def __init__(self) -> None:
        from rouge_score.tokenizers import porter

        self._stem: Callable[[str], str] = porter.PorterStemmer().stem

    def tokenize(self, text: str) -> list[str]:
        kept = []
        for char in unicodedata.normalize("NFKC", text).lower():
            category = unicodedata.category(char)
            if category != "Cf":  # joiners and soft hyphens stand inside a word
                kept.append(char if category[0] in "LMN" else " ")
        words = _UNSPACED.sub(r" \g<0> ", "".join(kept)).split()
        return [self._stem(word) if len(word) > 3 else word for word in words]


@functools.cache
def _rouge_scorer(tokenizer: str) -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    own = UnicodeTokenizer() if tokenizer == "unicode" else None
    return RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True, tokenizer=own)


def bleu(prediction: str, references: Sequence[str]) -> float:
    """Sentence BLEU against all references together, in [0, 1] (sacrebleu's 0 to 100 over 100).

    Tokeniser 13a, exponential smoothing, the effective n-gram order for sentences shorter than four words.
    """
    return float(_bleu_scorer().sentence_score(prediction, list(references)).score) / 100


@functools.cache
def _bleu_scorer() -> Any:
    from sacrebleu.metrics import BLEU

    return BLEU(effective_order=True)


def accuracy(verdicts: Sequence[bool | None]) -> float:
    """Share of true verdicts, shape (N,), N >= 1; a missing verdict (None) is not right, and counts in N."""
    return sum(verdict is True for verdict in verdicts) / len(verdicts)


def pass_at_k(n: int, c: int, k: int) -> float:
    """Chance that at least one of k solutions drawn from n, c of them right, is right; unbiased.

    Args:
        n: solutions tried, >= k.
        c: of them right, 0 <= c <= n.
        k: drawn without replacement, >= 1.

    Raises:
        ValueError: fewer than k solutions, or impossible counts.

    Source: Chen et al. 2021, arXiv 2107.03374, equation 1.
    """
    if not (1 <= k <= n and 0 <= c <= n):
        raise ValueError(f"pass@{k} of {c} right among {n} is undefined")
    return 1.0 - math.comb(n - c, k) / math.comb(n, k)


def bert_score(
    predictions: Sequence[str],
    references: Sequence[Sequence[str]],
    model: str,
    num_layers: int | None = None,
    device: str | None = None,
    batch_size: int = 64,
) -> list[float]:
    """BERTScore F1 of each prediction, the best over its references; not rescaled. A blank prediction scores 0.

    Args:
        predictions, references: shape (N,); each prediction has at least one reference.
        model: hub id or folder of the encoder. Figures of different encoders or layers cannot be compared.
        num_layers: which layer's states; None: the one bert_score recommends for this model, if it knows it.
        device: None: CUDA where there is one, else the CPU.

    Raises:
        EncoderUnavailable: it cannot be loaded.

    Source: Zhang et al. 2020, arXiv 1904.09675.
    """
    scorer = _bert_scorer(model, num_layers, device, batch_size)
    said = [index for index, text in enumerate(predictions) if text.strip()]
    scores = [0.0] * len(predictions)
    if said:
        _, _, f = scorer.score([predictions[index] for index in said], [list(references[index]) for index in said])
        for index, value in zip(said, f.tolist(), strict=True):
            scores[index] = value
    return scores


@functools.lru_cache(maxsize=1)
def _bert_scorer(model: str, num_layers: int | None, device: str | None, batch_size: int) -> Any:
    try:
        import torch
        import transformers
        from bert_score import BERTScorer
        from bert_score.utils import model2layers
    except ImportError as error:
        raise EncoderUnavailable(f"the package {error.name} is not installed (pip install bert-score)") from None
    if num_layers is None and model not in model2layers:
        raise EncoderUnavailable(f"bert_score knows no best layer for {model}: give --bertscore_layers")
    if Path(model).is_absolute() and not Path(model).is_dir():
        raise EncoderUnavailable(f"{model}: no such folder")
    chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
    transformers.logging.set_verbosity_error()  # it reports the unused pooler of every encoder
    hide_loading_bars()
    try:
        with offline_unless_reachable(model):
            return BERTScorer(model_type=model, num_layers=num_layers, device=chosen, batch_size=batch_size)
    except (OSError, ValueError, RuntimeError, AssertionError, IndexError) as error:
        raise EncoderUnavailable(f"{model}: {' '.join(str(error).split())[:200] or type(error).__name__}") from None
