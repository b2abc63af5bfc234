"""The chain from the event log to a live bundle as named steps that can be killed and repeated.

``engine.py`` runs steps and knows nothing of recommending; ``chain.py`` says what the steps are,
``…_steps.py`` what they do.
"""
