"""What is good: one metric a file, reports beside baselines."""
