"""The whole system on one machine, from an empty folder to a changed answer: ``recsys demo``."""
