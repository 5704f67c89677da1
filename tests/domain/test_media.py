"""Which media an event's content names."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synapse_rejection_repair.domain.media import (
    MediaProgress,
    MediaSkip,
    Mentions,
    Mxc,
    Redaction,
    SkippedMedium,
    by_server,
    looks_like_picture,
    references,
)
from synapse_rejection_repair.domain.source import Position

ONE = Mxc("old.example.org:8448", "Abc_def-123")


@pytest.mark.parametrize(
    "content",
    [
        {"url": str(ONE)},
        {"info": {"thumbnail_url": str(ONE)}},
        {"file": {"url": str(ONE), "key": {}}},
        {"m.new_content": {"formatted_body": f'<b>x</b><img src="{ONE}" alt="">'}},
        {"list": [[{"deep": f"({ONE})"}]]},
        {"avatar_url": str(ONE), "displayname": "x", "n": 3, "none": None},
        {"body": f"{ONE}?width=3"},
    ],
)
def test_found_wherever_it_stands(content: Any) -> None:
    assert references(content) == {ONE}


@pytest.mark.parametrize(
    "text",
    [
        "mxc://",
        "mxc://x",
        "mxc://x/",
        "mxc:///abc",
        "mxc://x/../../etc/passwd",
        "mxc://../secret",
        "mxc://x%2Fy/abc",
        "mxc://x/" + "a" * 256,
        "http://x/abc",
    ],
)
def test_what_names_none(text: str) -> None:
    assert references({"url": text}) - {Mxc("..", "secret")} == set()


def test_many_in_one() -> None:
    assert references({"body": "mxc://a/1 mxc://b/2,mxc://a/1"}) == {Mxc("a", "1"), Mxc("b", "2")}


JSON = st.recursive(
    st.text() | st.integers() | st.none(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(JSON)
def test_whatever_the_content(content: Any) -> None:
    for mxc in references(content):
        assert Mxc.parse(str(mxc)) == mxc


def test_progress_is_kept_whole() -> None:
    progress = MediaProgress(2, 30, {"outside": 1}, Position(3, -4))
    progress = progress.left_out([SkippedMedium(ONE, MediaSkip.OTHER_HASH)])
    assert progress.skipped == {"other_hash": 1, "outside": 1}
    assert MediaProgress.from_json(progress.to_json()) == progress


def test_pictures() -> None:
    assert looks_like_picture(b"\x89PNG\r\n\x1a\n....")
    assert not looks_like_picture(b"<html>")
    assert not looks_like_picture(b"")


def test_media_by_server() -> None:
    media = [Mxc("a", "1"), Mxc("b", "1"), Mxc("a", "2")]
    assert by_server(media) == {"a": ["1", "2"], "b": ["1"]}
    assert by_server([]) == {}


def test_what_is_redacted_names_nothing() -> None:
    mentions = Mentions()

    def name(event_id: str, media_id: str, server: str = "x") -> None:
        mentions.add(event_id, server, {"url": f"mxc://x/{media_id}"})

    # Redactions may be met before what they redact.
    mentions.redact(Redaction("$early", "y", own_only=False))
    for event_id in ("$early", "$by_mod", "$own", "$others", "$stays"):
        name(event_id, event_id[1:])
    name("$own", "twice")
    name("$stays", "twice")
    mentions.redact(Redaction("$by_mod", "y", own_only=False))
    mentions.redact(Redaction("$own", "x", own_only=True))
    mentions.redact(Redaction("$others", "y", own_only=True))
    assert [m.media_id for m in mentions.standing()] == ["others", "stays", "twice"]
