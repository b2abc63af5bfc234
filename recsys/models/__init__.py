"""What learns: the tensor contract, towers, ranker, losses. Knows no storage and no server."""
