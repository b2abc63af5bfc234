"""Load from an open loop: ``recsys loadtest``, and the experiments that need load of their own.

Arrivals are fixed by the seed before anything is sent, and latency runs from the *intended* send
time (``paced.py``).
"""
