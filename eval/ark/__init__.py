"""The ark card: how much of a team's gain its students keep, and whether that was foreseen."""
