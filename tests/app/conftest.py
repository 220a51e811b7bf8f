import pytest
from app_helpers import write_shards


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """Indexes of foreign tars are kept in a folder of the test's own."""
    monkeypatch.setenv("DIPTYCH_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.delenv("DIPTYCH_DEBUG", raising=False)


@pytest.fixture(scope="session")
def shards(tmp_path_factory):
    """Forty coloured pictures to learn from and twenty to be judged on."""
    return write_shards(tmp_path_factory.mktemp("data") / "colours")
