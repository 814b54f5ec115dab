"""Generated word problems of GSM8K's size; each begins differently, so samples share no prompt prefix."""

import random
from collections.abc import Iterator

from agentark.types import Sample

NAMES = ("Amara", "Ben", "Chloe", "Diego", "Esi", "Farid", "Grace", "Hiro", "Ines", "Jonas", "Kavya", "Liam")
GOODS = ("apples", "pencils", "stamps", "marbles", "books", "shells", "tickets", "coins", "cards", "buttons")
INSTRUCTION = "Think step by step and write the final number in \\boxed{}."


def problems(count: int, padding: int = 0) -> Iterator[Sample]:
    """`count` samples, made one by one.

    Args:
        count: number of samples.
        padding: characters of story before each question, for long prompts.
    """
    for number in range(count):
        draw = random.Random(number)
        name, other = draw.sample(NAMES, 2)
        goods = draw.choice(GOODS)
        bags, each, gift, price = draw.randint(3, 19), draw.randint(4, 29), draw.randint(2, 11), draw.randint(2, 9)
        story = "".join(f"{word} " for word in _story(draw, padding))
        query = (
            f"{story}{number + 11} days ago {name} packed {bags} bags with {each} {goods} each and gave {gift} {goods} "
            f"to {other}. {name} sold the rest for {price} dollars apiece. How many dollars did {name} earn?"
        )
        answer = (bags * each - gift) * price
        yield Sample(
            id=f"bench/{number}", source="bench", query=query, gt=str(answer), answer_type="number",
            instruction=INSTRUCTION,
        )  # fmt: skip


def _story(draw: random.Random, characters: int) -> Iterator[str]:
    """Words and figures of about this many characters."""
    while characters > 0:
        word = draw.choice((*NAMES, *GOODS, "counted", "and", "the", "before", "noon,", str(draw.randint(10, 999))))
        characters -= len(word) + 1
        yield word
