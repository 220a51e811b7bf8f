"""Captions within the members of a sample: read one by one, and taken out one by one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from diptych.data.decode import decode_json, decode_text
from diptych.data.raw import encode_json

_ONE, _SEVERAL = ("caption", "text"), "texts"  # keys of the json
_OF_THE_FIRST = "spans"  # characters of the first caption


def with_captions(members: Mapping[str, bytes], kept: Sequence[str]) -> Mapping[str, bytes]:
    """The members of a sample with only those of its captions that are in `kept` (at least one), in that order.

    Where the first caption goes, the next takes its place, and what points into it (`spans`) goes too.
    """
    record = decode_json(members["json"]) if "json" in members else {}
    changed = dict(members)
    first = decode_text(members["txt"]) if "txt" in members else next((record[k] for k in _ONE if k in record), kept[0])
    stays = first in kept
    if "txt" in members and not stays:
        changed["txt"] = kept[0].encode("utf-8")
    new = {key: value for key, value in record.items() if stays or key != _OF_THE_FIRST}
    new |= {key: kept[0] for key in _ONE if key in record and not stays}
    new |= {_SEVERAL: list(kept)} if _SEVERAL in record else {}
    if new != record:
        changed["json"] = encode_json(new, "")
    return changed


def with_record(members: Mapping[str, bytes], values: Mapping[str, Any]) -> Mapping[str, bytes]:
    """The members of a sample with some values added to its json."""
    record = decode_json(members["json"]) if "json" in members else {}
    return {**members, "json": encode_json({**record, **values}, "")}
