"""What happened: schemas, the log that keeps it, and the way in from tables and services."""
