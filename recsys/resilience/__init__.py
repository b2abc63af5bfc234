"""Going on when a part is late, away or overwhelmed: what is kept for then, when to stop asking."""
