"""What members know, what a debate makes of it, and what the lessons of the laboratory's models show."""

import itertools
import random
import re
from collections import Counter

import pytest

from agentark.tasks.hidden_digits import NOUNS, hidden_digits
from methods.llm_debate import prompts
from study.lab import lessons, model
from study.lab.lessons import Shape
from study.lab.worlds import SPECS, WORLDS, WorldName, members, recalled, revised, solution


@pytest.mark.parametrize(("world", "count", "share"), [("denoise", 3, 25), ("interact", 3, 30), ("denoise", 5, 20)])
def test_no_two_members_are_wrong_about_the_same_noun(world: WorldName, count: int, share: int) -> None:
    truth = hidden_digits(0)
    tables = members(world, 1, count)
    wrong = [{noun for noun in NOUNS if table[noun] != truth[noun]} for table in tables]
    assert [len(nouns) for nouns in wrong] == [share] * count
    assert len(set.union(*wrong)) == sum(map(len, wrong))


def test_every_world_says_how_its_members_differ() -> None:
    assert set(SPECS) == set(WORLDS)


def test_members_of_compose_know_half_and_together_everything() -> None:
    truth, tables = hidden_digits(0), members("compose", 0)
    knowing = Counter(sum(table[noun] is not None for table in tables) for noun in NOUNS)
    assert set(knowing) == {1, 2}
    assert 45 <= knowing[1] <= 55
    assert all(table[noun] in (None, truth[noun]) for table in tables for noun in NOUNS)


def test_solutions_say_what_is_known() -> None:
    assert solution([("lamp", 7), ("box", 5)]) == "a) lamp 7 sum 7\n\nb) box 5 sum 2\n\nThe answer is \\boxed{2}."
    assert solution([("lamp", 7), ("box", None)]) == "a) lamp 7 sum 7\n\nb) box ? sum ?\n\nThe answer is \\boxed{?}."


def test_a_member_takes_what_most_say_and_keeps_its_own_belief_in_a_tie() -> None:
    table = {"lamp": 1, "box": 2, "coat": None}
    own = [("lamp", 1), ("box", 2), ("coat", None)]
    peers = [[("lamp", 3), ("box", 4), ("coat", None)], [("lamp", 3), ("box", 5), ("coat", 6)]]
    assert revised(own, peers, table) == [("lamp", 3), ("box", 2), ("coat", 6)]
    assert revised(own, [[("drum", 3), ("kite", 4), ("doll", 5)]], table) == own


def test_the_majority_is_right_wherever_one_member_is_wrong() -> None:
    truth = hidden_digits(0)
    for world, count in itertools.product(SPECS, (3, 5)):
        tables = members(world, 0, count)
        said = [recalled(NOUNS, table) for table in tables]
        for number, table in enumerate(tables):
            peers = [steps for other, steps in enumerate(said) if other != number]
            assert revised(said[number], peers, table) == list(truth.items())


def test_lessons_have_the_words_of_the_debate_and_their_own_replies() -> None:
    draw = random.Random(0)
    table = members("denoise", 0)[0]
    made = lessons.revising(draw, Shape((4,), 2, easy=True), table)
    question, own, asked = (said["content"] for said in made.messages)
    assert question.count("\n") == 7
    assert own.endswith("}.")
    assert asked.startswith(prompts.PEERS + prompts.PEER.format(number=1))
    assert asked.endswith(prompts.UPDATE)
    alone = lessons.alone(draw, (3,), table)
    assert alone.reply == solution(
        [(noun, table[noun]) for noun in re.findall(r"\) (\w+)", alone.messages[0]["content"])]
    )
    read = lessons.reading(draw, Shape((4,), 2), table)
    assert f"{read.reply}\n\n" in read.messages[0]["content"]


def test_a_word_is_a_token_and_anything_else_comes_back_whole() -> None:
    tokenizer = model.make_tokenizer(["a) lamp 3 sum 3\n\nThe answer is \\boxed{3}."])
    assert tokenizer.convert_ids_to_tokens(tokenizer.encode("a) lamp 3 sum 3")) == ["a) ", "lamp", " 3", " sum", " 3"]
    for text in ("Grüße, 42 🎉!", "The answer is \\boxed{3}."):
        assert tokenizer.decode(tokenizer.encode(text)) == text
