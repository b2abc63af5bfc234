"""Open-loop load test over HTTP: requests leave when they are due, whatever the server does.

A closed-loop tool sends the next request when the last one came back, so a stalled server is asked
less and its stall is counted once ("coordinated omission"). Here arrivals are a Poisson process
fixed by the seed, and latency runs from the *intended* send time.
"""
