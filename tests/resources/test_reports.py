import http.client
import threading
from pathlib import Path

import pytest

from resources.reports import ReportServer, report_url, reports_url, stored_reports
from resources.storage import AssetStore


@pytest.fixture
def store(tmp_path):
    folder = tmp_path / "assets" / "interest_report"
    folder.mkdir(parents=True)
    (folder / "sample.html").write_text("<p>Grüße</p>", encoding="utf-8")
    (folder / "my.data-2.html").write_text("<p>two</p>")
    (tmp_path / "secret.html").write_text("secret")
    return AssetStore(root=str(tmp_path / "assets"))


@pytest.fixture
def get(store):
    server = ReportServer(store, "127.0.0.1", 0)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()

    def ask(path, host=None, method="GET"):
        connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
        connection.request(method, path, headers={} if host is None else {"Host": host})
        answer = connection.getresponse()
        return answer, answer.read().decode()

    yield ask
    server.shutdown()
    server.server_close()


def test_pages_are_served_as_stored(get):
    answer, page = get("/sample.html")
    assert (answer.status, page) == (200, "<p>Grüße</p>")
    assert answer.getheader("Content-Type") == "text/html; charset=utf-8"
    assert answer.getheader("X-Content-Type-Options") == "nosniff"
    assert get("/my.data-2.html")[1] == "<p>two</p>"
    assert get("/sample.html?x=1#y")[0].status == 200


def test_index_lists_what_is_there(get, tmp_path):
    answer, page = get("/")
    assert answer.status == 200
    assert '<a href="my.data-2.html">' in page
    assert '<a href="sample.html">' in page
    for path in (tmp_path / "assets" / "interest_report").iterdir():
        path.unlink()
    assert "No dataset has a report yet" in get("/")[1]


@pytest.mark.parametrize(
    "path",
    ["/beauty.html", "/sample", "/../secret.html", "/..%2f..%2fsecret.html", "/%2e%2e/secret.html", "//secret.html",
     "/sample.html/", "/sample.html%00", "/.html", "/etc/passwd"],
)  # fmt: skip
def test_nothing_else_is_served(get, path):
    answer, page = get(path)
    assert answer.status == 404
    assert "secret" not in page


@pytest.mark.parametrize("host", ["evil.example", "evil.example:3010", "127.0.0.1.evil.example", ""])
def test_a_name_bound_to_this_machine_by_somebody_else_is_refused(get, host):
    answer, page = get("/sample.html", host=host)
    assert answer.status == 403
    assert "Grüße" not in page


@pytest.mark.parametrize("host", ["localhost:1", "127.0.0.1", "[::1]:3010"])
def test_names_of_this_machine_are_answered(get, host):
    assert get("/sample.html", host=host)[0].status == 200


def test_nothing_can_be_written(get):
    assert get("/sample.html", method="POST")[0].status == 501
    assert get("/sample.html", method="DELETE")[0].status == 501


def test_it_listens_to_this_machine_alone(store):
    with pytest.raises(ValueError, match=r"not on '0\.0\.0\.0'"):
        ReportServer(store, "0.0.0.0", 0)


def test_address_is_a_setting(monkeypatch):
    monkeypatch.delenv("RECSYS_REPORTS_URL", raising=False)
    assert report_url("sample") == "http://127.0.0.1:3010/sample.html"
    monkeypatch.setenv("RECSYS_REPORTS_URL", "https://reports.example/recsys/")
    assert reports_url() == "https://reports.example/recsys"
    assert report_url("sample") == "https://reports.example/recsys/sample.html"


def test_a_store_without_reports_has_none(tmp_path):
    assert stored_reports(AssetStore(root=str(tmp_path / "nothing"))) == []
    assert Path(tmp_path / "nothing").exists() is False
