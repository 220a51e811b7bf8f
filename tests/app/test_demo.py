"""The demo, on tiny data and with tiny towers: what it writes, and that it goes on where it stopped."""

import pytest
from app_helpers import RECIPE, TINY

from diptych import methods, results
from diptych.app import api, demo
from diptych.config import from_dict


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(demo, "settings", lambda: (TINY, RECIPE))


def test_the_demo_writes_page_and_figures_and_goes_on(small, shards, tmp_path, monkeypatch):
    train = api.training.train

    def fail_at_filip(model, *args, **options):
        if model.card.id == "filip":
            raise KeyboardInterrupt("stopped")
        return train(model, *args, **options)

    monkeypatch.setattr(api.training, "train", fail_at_filip)
    with pytest.raises(KeyboardInterrupt):
        demo.demo(tmp_path / "demo", data=str(shards))
    written = (tmp_path / "demo" / "clip" / "results.json").stat().st_mtime_ns
    assert not (tmp_path / "demo" / "index.html").exists()
    monkeypatch.undo()
    monkeypatch.setattr(demo, "settings", lambda: (TINY, RECIPE))
    rows = demo.demo(tmp_path / "demo", data=str(shards))
    assert (tmp_path / "demo" / "clip" / "results.json").stat().st_mtime_ns == written
    assert {row.method for row in rows} == {"clip", "filip"}
    assert results.from_json((tmp_path / "demo" / "results.json").read_text()) == rows
    page = (tmp_path / "demo" / "index.html").read_text(encoding="utf-8")
    assert page.count("data:image/webp") == 6  # two retrieval grids and a heat map a method
    told = demo.next_steps(tmp_path / "demo")
    assert str(tmp_path / "demo" / "index.html") in told
    assert "diptych train filip --data my_shards" in told


@pytest.mark.parametrize("settings", [(demo.PRETRAINED, demo.PRETRAINED_RECIPE), (demo.SMALL, demo.SMALL_RECIPE)])
def test_the_table_of_settings_holds_options_of_both_methods(settings):
    config, recipe = settings
    made = [from_dict(methods.config_class(name), config) for name in demo.METHODS]
    assert all(getattr(one, name) == value for one in made for name, value in config.items())
    assert recipe.samples % recipe.batch == 0
