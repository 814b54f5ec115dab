"""Prompts of the distiller, in our own words.

Source: AgentArk (arXiv 2602.03955), data augmentation: a model picks correct trajectories that differ in the order in
which they decompose the problem, in the representation they use on the way, or in the path to the solution.
"""

INTRO = (
    "Below stand a question and several solutions to it. All of them reach the right answer. A student is to learn "
    "from a few that solve it in really different ways. Two solutions differ when they take the problem apart in "
    "another order, when they work with another representation on the way (equations, a table, a picture in words, "
    "counting up), or when they follow another path to the result. Other wording or length alone is no difference.\n\n"
    "[Question]\n"
)
SOLUTION = "\n\n[Solution {number}]\n"
FIRST = "\n\nWhich solution is the clearest to learn from? Reply with its number alone."
NEXT = (
    "Which of the remaining solutions differs most from those picked so far? Reply with its number alone, or with "
    "none if every remaining one is solved in the same way as one of them."
)
