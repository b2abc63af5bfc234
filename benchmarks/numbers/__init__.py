"""The figures of README.md and docs/numbers.md: rows in one file, tables made of them."""
