"""Where a report lies: beside the bundles, because a bundle's id must not depend on it.

The comparison with the live bundle is no function of recipe, data and seed, so a report in the
bundle's folder would be in its content hash, or a file that no checksum covers.
``<bundle_dir>/reports/<bundle_id>/report.html`` and ``report.json``; making it anew replaces it.
"""

from __future__ import annotations

from pathlib import Path

from recsys.errors import BundleError
from recsys.evaluation.report_document import Report
from recsys.evaluation.report_page import page
from recsys.events.durable_files import make_directory, write_durably

REPORTS_DIR, HTML_FILE, JSON_FILE = "reports", "report.html", "report.json"


def report_folder(bundle_dir: Path, bundle_id: str) -> Path:
    """Give where the report of a bundle lies."""
    return bundle_dir / REPORTS_DIR / bundle_id


def write_report(report: Report, folder: Path) -> None:
    """Write both forms into ``folder``, each whole or not at all."""
    make_directory(folder)
    write_durably(folder / JSON_FILE, (report.model_dump_json(indent=1) + "\n").encode())
    write_durably(folder / HTML_FILE, page(report).encode())


def copy_report(source: Path, bundle_dir: Path, bundle_id: str) -> None:
    """Take the report that ``write_report`` left in ``source`` as that of a bundle."""
    folder = report_folder(bundle_dir, bundle_id)
    make_directory(folder)
    for name in (JSON_FILE, HTML_FILE):
        write_durably(folder / name, (source / name).read_bytes())


def has_report(bundle_dir: Path, bundle_id: str) -> bool:
    """Tell whether both forms of a bundle's report are there."""
    folder = report_folder(bundle_dir, bundle_id)
    return all((folder / name).is_file() for name in (JSON_FILE, HTML_FILE))


def read_report(bundle_dir: Path, bundle_id: str) -> Report:
    """Read a report.

    Raises:
        BundleError: when there is none, or it is damaged.
    """
    path = report_folder(bundle_dir, bundle_id) / JSON_FILE
    try:
        return Report.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise BundleError(
            f"no report of {bundle_id} at {path}; run `recsys evaluate {bundle_id}`"
        ) from None
    except ValueError as error:
        raise BundleError(
            f"{path} is damaged ({error}); make it anew with `recsys evaluate {bundle_id}`"
        ) from error
