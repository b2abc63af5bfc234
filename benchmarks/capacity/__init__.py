"""How cost grows, and what a given load takes: measurements, fits, a plan, a simulation."""
