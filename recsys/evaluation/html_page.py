"""One HTML page that needs nothing else: no script, no font, no network."""

from __future__ import annotations

from html import escape
from importlib import resources

_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
"""The browser itself refuses to load anything."""


def html_page(title: str, body: str, *, style: str = "") -> str:
    """Give the page in the look of the reports; ``style`` is added to it. ``body`` is HTML."""
    look = resources.files(__package__).joinpath("report.css").read_text()
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f"<title>{escape(title)}</title><style>{look}{style}</style></head>\n<body>"
        f"{body}\n</body></html>\n"
    )
