"""Your tables as events: one TOML mapping per data set, a checker, a downloader.

Read ``mapping.py`` and its parts for what a mapping may say, ``docs/data.md`` for how to write one.
"""
