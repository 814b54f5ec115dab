"""What a team is worth: its members, a vote, the debate and what could be distilled from it, in one table."""
