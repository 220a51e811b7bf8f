import pytest


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """Indexes of foreign tars are kept in a folder of the test's own; data sets are opened anew."""
    from diptych.curation.blocks import opened

    monkeypatch.setenv("DIPTYCH_CACHE", str(tmp_path_factory.mktemp("cache")))
    opened.cache_clear()
