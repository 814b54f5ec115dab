"""What the teacher reads after the question, in our own words.

Sources: the student with a demonstration in its prompt as its own teacher (SDFT, arXiv 2601.19897); a team's debate as
that demonstration (MAD-OPD, arXiv 2605.01347).
"""

TRANSCRIPT = (
    "Members of a team have worked on this question and read each other's solutions. These members ended "
    "at the right answer:\n\n{context}\n\nNow solve the question yourself, step by step, and give the answer in the "
    "form that was asked for."
)
SOLUTION = (
    "This is a correct solution:\n\n{context}\n\nNow solve the question yourself, step by step, and give "
    "the answer in the form that was asked for."
)
GOLD = (
    "The right answer is {context}. Solve the question yourself, step by step, and give the answer in the "
    "form that was asked for."
)
VOTE = (
    "Most members of a team have answered {context}. Solve the question yourself, step by step, and give "
    "the answer in the form that was asked for."
)
MEMBER = "[Solution {number}]\n{text}"
"""One member of the team; the heading is one by which selection knows a text that repeats its peers."""
AGAIN = "\n\nAfter reading the others:\n\n"
"""Between two replies of a member."""
