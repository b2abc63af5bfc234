"""From a request to its answer, step by step; ``recsys/pipeline.py`` puts the steps together."""
