import pytest
import sqlalchemy as sa

from recsys_dagster import cli
from recsys_dagster.outages import outage


def raised(action) -> Exception:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - any, that is the point
        action()
    return caught.value


def test_a_database_that_refuses(tmp_path, capsys, monkeypatch):
    error = raised(sa.create_engine(f"sqlite:///{tmp_path}/none/x.db").connect)
    wrapped = raised(lambda: (_ for _ in ()).throw(RuntimeError("too many retries")))
    wrapped.__cause__ = error
    for each in (error, wrapped):
        told = outage(each)
        assert str(told).startswith("the database of the Dagster instance refused (unable to open database file)")
    monkeypatch.setattr(cli, "app", lambda arguments: (_ for _ in ()).throw(wrapped))
    with pytest.raises(SystemExit) as stop:
        cli.main([])
    assert stop.value.code == 1
    err = capsys.readouterr().err
    assert err.startswith("error: the database of the Dagster instance refused")
    assert err.count("\n") == 1


def test_an_object_store_that_refuses():
    exceptions = pytest.importorskip("botocore.exceptions")
    told = outage(exceptions.EndpointConnectionError(endpoint_url="http://127.0.0.1:9"))
    assert 'the object store refused (Could not connect to the endpoint URL: "http://127.0.0.1:9")' in str(told)
    denied = PermissionError("Forbidden")
    denied.__cause__ = exceptions.ClientError({"Error": {"Code": "403", "Message": "Forbidden"}}, "GetObject")
    assert "(403)" in str(outage(denied))
    assert "recsys-dagster[s3]" in str(outage(ImportError("Install s3fs to access S3")))


def test_other_errors_stay_what_they_are(monkeypatch):
    assert outage(ValueError("other")) is None
    monkeypatch.setattr(cli, "app", lambda arguments: (_ for _ in ()).throw(KeyError("other")))
    with pytest.raises(KeyError, match="other"):
        cli.main([])
