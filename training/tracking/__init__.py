"""Runs and bundles as MLflow shows them. The bundle store is the truth; this mirrors it.

``record.py`` says what is recorded, from a bundle alone; ``mlflow_store.py`` is the one file that
knows MLflow; ``mirror.py`` brings MLflow in line with the bundle store and never fails a run.
"""
