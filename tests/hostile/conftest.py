import pytest


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """Indexes of foreign tars are kept in a folder of the test's own."""
    monkeypatch.setenv("DIPTYCH_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.delenv("DIPTYCH_DEBUG", raising=False)
