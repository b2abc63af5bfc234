"""Running a model somewhere else: the client of the model server."""
