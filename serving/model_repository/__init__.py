"""What runs inside the model server: the template of ``model.py`` and the code it starts."""
