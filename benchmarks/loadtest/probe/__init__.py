"""How fresh a running system is: tracers through the real path, asked for until they are seen."""
