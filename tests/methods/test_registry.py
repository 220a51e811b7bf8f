import subprocess
import sys

import pytest

from diptych import methods
from diptych.batch import FIELDS


def test_cards_are_read_without_torch() -> None:
    code = "import sys; from diptych import methods; methods.cards(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("id", methods.IDS)
def test_card_read_from_source_is_the_imported_one(id: str) -> None:
    assert methods.card(id) == methods.module(id).CARD
    assert methods.card(id).id == id
    assert set(methods.card(id).needs) <= set(FIELDS)
    assert methods.method_class(id).card is methods.module(id).CARD
    baseline = methods.card(id).baseline
    assert baseline is None or baseline in methods.IDS


def test_unknown_method_names_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean 'filip'"):
        methods.card("flip")


def test_unknown_option_names_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean 'image_size'"):
        methods.build("clip", {"image_sise": 32})
