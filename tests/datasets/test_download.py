from __future__ import annotations

import hashlib
import io
import socket
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import polars as pl
import pytest

from recsys.datasets import cli, publishers
from recsys.datasets.download import DownloadLimits, download
from recsys.datasets.load import load_mapping, parse_mapping
from recsys.datasets.mapping import DatasetMapping
from recsys.errors import ConfigurationError
from recsys.settings import Settings
from tests.datasets.conftest import real

BODY = b"u,i,t\na,x,1700000000000\n" * 1000
SHA = hashlib.sha256(BODY).hexdigest()


class Publisher(ThreadingHTTPServer):
    """A real server on loopback that answers well or badly, by path."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.ranges: list[str | None] = []
        self.over = threading.Event()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{path}"


class Handler(BaseHTTPRequestHandler):
    server: Publisher

    def do_GET(self) -> None:
        wanted = self.headers["Range"]
        self.server.ranges.append(wanted)
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        if self.path == "/missing":
            self.send_error(404)
            return
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", self.server.url("good"))
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(BODY) - start))
        self.end_headers()
        if self.path == "/truncated" and not start:
            self.wfile.write(BODY[:5000])
        elif self.path == "/slow":
            self.wfile.write(BODY[:5000])
            self.wfile.flush()
            self.server.over.wait(60)
        else:
            self.wfile.write(BODY[start:])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def publisher() -> Iterator[Publisher]:
    with Publisher() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.over.set()
        server.shutdown()
        thread.join()


def offer(url: str, *, sha256: str | None = SHA, size: int | None = None) -> DatasetMapping:
    extra = f'sha256 = "{sha256}"\n' if sha256 else ""
    extra += f"size_bytes = {size}\n" if size else ""
    return parse_mapping(
        f'name = "small"\n[tables.log]\nfile = "log.csv"\n[[interactions]]\ntable = "log"\n'
        'user = "u"\nitem = "i"\ntime = "t"\ntype = "click"\n'
        f'[download]\nurl = "{url}"\nfile = "log.csv"\npage = "https://example.org/page"\n{extra}'
    )


def refusal(mapping: DatasetMapping, data_dir: Path, limits: DownloadLimits | None = None) -> str:
    with pytest.raises(ConfigurationError) as caught:
        download(mapping, data_dir, limits=limits)
    message = str(caught.value)
    assert "\n" not in message
    assert str(data_dir / "small" / "log.csv") in message  # where to put it by hand
    assert "https://example.org/page" in message
    assert not (data_dir / "small" / "log.csv").exists()
    return message


@pytest.mark.parametrize("path", ["good", "moved"])
def test_a_good_download_is_kept_and_not_repeated(
    publisher: Publisher, tmp_path: Path, path: str
) -> None:
    seen: list[tuple[int, int | None]] = []
    mapping = offer(publisher.url(path))
    result = download(mapping, tmp_path, progress=lambda done, total: seen.append((done, total)))
    assert result.fetched and result.sha256 == SHA
    assert (tmp_path / "small" / "log.csv").read_bytes() == BODY
    assert seen[-1] == (len(BODY), len(BODY))
    num_requests = len(publisher.ranges)
    assert not download(mapping, tmp_path).fetched
    assert len(publisher.ranges) == num_requests


def test_a_wrong_checksum_is_refused_and_nothing_kept(publisher: Publisher, tmp_path: Path) -> None:
    message = refusal(offer(publisher.url("good"), sha256="0" * 64), tmp_path)
    assert f"wanted sha256 {'0' * 64}, found {SHA}" in message
    assert not (tmp_path / "small" / "log.csv.part").exists()


def test_a_truncated_body_is_refused_and_taken_up_again(
    publisher: Publisher, tmp_path: Path
) -> None:
    mapping = offer(publisher.url("truncated"))
    assert "the transfer broke off" in refusal(mapping, tmp_path)
    assert download(mapping, tmp_path).sha256 == SHA
    assert publisher.ranges == [None, "bytes=5000-"]


def test_without_a_checksum_a_broken_download_starts_anew(
    publisher: Publisher, tmp_path: Path
) -> None:
    mapping = offer(publisher.url("truncated"), sha256=None)
    refusal(mapping, tmp_path)
    refusal(mapping, tmp_path)
    assert publisher.ranges == [None, None]


def test_a_silent_server_times_out(publisher: Publisher, tmp_path: Path) -> None:
    limits = DownloadLimits(read_s=0.3)
    assert "timed out" in refusal(offer(publisher.url("slow")), tmp_path, limits)


def test_an_error_status_is_told(publisher: Publisher, tmp_path: Path) -> None:
    assert "the server answered 404" in refusal(offer(publisher.url("missing")), tmp_path)


def test_offline_is_one_line_that_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_network(*_: object, **__: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    monkeypatch.delenv("HTTPS_PROXY", raising=False)
    monkeypatch.delenv("https_proxy", raising=False)
    monkeypatch.delenv("ALL_PROXY", raising=False)
    monkeypatch.delenv("all_proxy", raising=False)
    assert cli.main(["download", "ranklens"], settings=Settings(data_dir=tmp_path)) == 2
    message = capsys.readouterr().err
    assert "wanted https://media.githubusercontent.com/" in message
    assert "no connection" in message and "Name or service not known" in message
    assert f"put it at {tmp_path / 'ranklens' / 'events.jsonl.gz'}" in message
    assert message.strip().count("\n") == 0


def test_a_file_put_there_by_hand_is_checked_and_used(tmp_path: Path) -> None:
    folder = tmp_path / "online_retail"
    folder.mkdir()
    (folder / "online+retail.zip").write_bytes(b"not what UCI distributes")
    with pytest.raises(ConfigurationError, match="truncated"):
        download(load_mapping("online_retail"), tmp_path)


def workbook(rows: list[list[object]]) -> bytes:
    """The smallest real .xlsx: one sheet; numbers as numbers, texts as inline strings."""

    def cell(value: object, style: int) -> str:
        if value is None:
            return "<c/>"
        if isinstance(value, str):
            return f'<c t="inlineStr"><is><t xml:space="preserve">{value}</t></is></c>'
        return f'<c s="{style}"><v>{value}</v></c>'

    sheet = "".join(
        "<row>" + "".join(cell(v, int(i == 4)) for i, v in enumerate(row)) + "</row>"
        for row in rows
    )
    space = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
    office = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    package = "http://schemas.openxmlformats.org/package/2006"
    kinds = "application/vnd.openxmlformats-officedocument.spreadsheetml"
    parts = {
        "[Content_Types].xml": f'<Types xmlns="{package}/content-types">'
        '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.'
        'relationships+xml"/><Default Extension="xml" ContentType="application/xml"/>'
        f'<Override PartName="/xl/workbook.xml" ContentType="{kinds}.sheet.main+xml"/>'
        f'<Override PartName="/xl/styles.xml" ContentType="{kinds}.styles+xml"/>'
        f'<Override PartName="/xl/worksheets/sheet1.xml" ContentType="{kinds}.worksheet+xml"/>'
        "</Types>",
        "_rels/.rels": f'<Relationships xmlns="{package}/relationships"><Relationship Id="r1" '
        f'Type="{office}/officeDocument" Target="xl/workbook.xml"/></Relationships>',
        "xl/workbook.xml": f'<workbook {space} xmlns:r="{office}"><sheets>'
        '<sheet name="Online Retail" sheetId="1" r:id="r1"/></sheets></workbook>',
        "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{package}/relationships">'
        f'<Relationship Id="r1" Type="{office}/worksheet" Target="worksheets/sheet1.xml"/>'
        f'<Relationship Id="r2" Type="{office}/styles" Target="styles.xml"/></Relationships>',
        "xl/styles.xml": f"<styleSheet {space}><fonts><font/></fonts><fills><fill/></fills>"
        "<borders><border/></borders><cellStyleXfs><xf/></cellStyleXfs>"
        '<cellXfs><xf numFmtId="0"/><xf numFmtId="22" applyNumberFormat="1"/></cellXfs>'
        "</styleSheet>",
        "xl/worksheets/sheet1.xml": f"<worksheet {space}><sheetData>{sheet}</sheetData>"
        "</worksheet>",
    }
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as out:
        for name, text in parts.items():
            out.writestr(name, f'<?xml version="1.0" encoding="UTF-8" standalone="yes"?>{text}')
    return packed.getvalue()


HEADER = [
    "InvoiceNo", "StockCode", "Description", "Quantity", "InvoiceDate", "UnitPrice", "CustomerID",
    "Country",
]  # fmt: skip
DAY = 40513.351388888885  # 2010-12-01 08:26 as Excel counts days


def test_the_publishers_workbook_becomes_the_three_tables(tmp_path: Path) -> None:
    rows: list[list[object]] = [
        HEADER,
        [536365, "85123A", "HANGING HOLDER", 6, DAY, 2.55, 17850, "United Kingdom"],
        [536366, 71053, "LANTERN", 6, DAY + 1, 3.39, 17850, "Cyprus"],
        [536367, 71053, "LANTERN", 2, DAY + 1, 3.75, 13047, "United Kingdom"],
        [536367, 71053, "WHITE LANTERN", 2, DAY + 1, 3.75, 13047, "United Kingdom"],
        ["C536379", 71053, "LANTERN", 1, DAY, 3.39, 14527, "United Kingdom"],
        [536380, "POST", "POSTAGE", 1, DAY, 18, 14527, "France"],
        [536381, 22139, None, 56, DAY, 0, None, "United Kingdom"],
        [536382, 22139, "TEA SET", -4, DAY, 4.25, 14527, "United Kingdom"],
    ]
    archive = tmp_path / "online_retail" / "online+retail.zip"
    archive.parent.mkdir()
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr("Online Retail.xlsx", workbook(rows))
    publishers.convert_online_retail(archive, archive.parent)
    log = pl.read_parquet(archive.parent / "interactions.parquet")
    assert [tuple(map(str, row)) for row in log.head(2).iter_rows()] == [
        ("2010-12-01 08:26:00", "17850", "85123A", "536365", "6", "2.549999952316284"),
        ("2010-12-02 08:26:00", "17850", "71053", "536366", "6", "3.390000104904175"),
    ]
    assert log.height == 4
    items = pl.read_parquet(archive.parent / "items.parquet")
    assert items.select("item_id", "description", pl.col("median_price").round(2)).rows() == [
        ("71053", "LANTERN", 3.75), ("85123A", "HANGING HOLDER", pytest.approx(2.55)),
    ]  # fmt: skip
    users = pl.read_parquet(archive.parent / "users.parquet")
    assert users.rows() == [(13047, "United Kingdom"), (17850, "Cyprus")]
    assert sorted(p.name for p in archive.parent.iterdir()) == [
        "interactions.parquet", "items.parquet", "online+retail.zip", "users.parquet",
    ]  # fmt: skip


def test_cleaning_all_raw_rows_gives_the_known_tables_exactly() -> None:
    mapping, data_dir = real("online_retail")
    folder = mapping.data_folder(data_dir)
    raw = folder / "online_retail_full.parquet"
    if not raw.is_file():
        pytest.skip(f"the raw rows are not there ({raw})")
    made = publishers.clean_online_retail(pl.read_parquet(raw))
    for name, frame in made.items():
        known = pl.read_parquet(folder / f"{name}.parquet")
        assert frame.equals(known.with_columns(pl.col(pl.Categorical).cast(pl.String))), name


def test_kuairands_archive_becomes_the_three_tables(tmp_path: Path) -> None:
    head = "user_id,video_id,date,hourmin,time_ms,is_click,is_like,is_follow,is_comment,is_forward,"
    head += "is_hate,long_view,play_time_ms,duration_ms,tab\n"
    log = head + "".join(
        f"{u},{v},{day},0,{t},1,0,0,0,0,0,1,900,1000,1\n"
        for u, v, day, t in [
            (1, 5, 20220424, 1650700000000), (2, 6, 20220426, 1650950000000),
            (1, 5, 20220425, 1650850000000), (1, 5, 20220425, 1650850000000),
        ]
    )  # fmt: skip
    members = {
        "log_standard_4_22_to_5_08_pure.csv": log,
        "user_features_pure.csv": "user_id,user_active_degree\n1,full_active\n2,\n",
        "video_features_basic_pure.csv": "video_id,upload_dt,tag\n5,2022-04-10,39\n"
        "6,2022-04-10,2\n",
    }
    archive = tmp_path / "KuaiRand-Pure.tar.gz"
    with tarfile.open(archive, "w:gz") as packed:
        for name, text in members.items():
            info = tarfile.TarInfo(f"KuaiRand-Pure/data/{name}")
            info.size = len(text)
            packed.addfile(info, io.BytesIO(text.encode()))
    publishers.convert_kuairand_pure(archive, tmp_path)
    made = pl.read_parquet(tmp_path / "log_standard_0425_0508.parquet")
    assert made.select("user_id", "video_id", "date").rows() == [(1, 5, 20220425), (2, 6, 20220426)]
    assert pl.read_parquet(tmp_path / "video_features_basic.parquet")["tag"].to_list() == [
        "39",
        "2",
    ]
    assert pl.read_parquet(tmp_path / "user_features.parquet").height == 2


def test_an_archive_of_another_layout_is_refused(tmp_path: Path) -> None:
    archive = tmp_path / "x.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr("readme.txt", "hello")
    with pytest.raises(ConfigurationError, match=r"wanted \.xlsx, found readme\.txt"):
        publishers.convert_online_retail(archive, tmp_path)
    archive.write_bytes(b"junk")
    with pytest.raises(ConfigurationError, match="is no archive"):
        publishers.convert_online_retail(archive, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["x.zip"]
