"""Reading paths, queries and bodies, and refusing what makes no sense with a sentence."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from http import HTTPStatus
from urllib.parse import unquote_to_bytes

from synapse.api.errors import Codes, SynapseError
from synapse.http.servlet import parse_json_object_from_request
from synapse.http.site import SynapseRequest

from synapse_rejection_repair.domain.listing import Page
from synapse_rejection_repair.errors import InvalidParam

MAX_LIMIT = 1000
MAX_TS = 2**53 - 1
"""The largest integer that Matrix's canonical JSON allows."""
_MAX_OFFSET = 2**53 - 1
_MAX_ID_BYTES = 255


def query(request: SynapseRequest, known: Collection[str]) -> dict[str, str]:
    """The parameters of a request's query, each given once at most.

    Args:
        request: the request.
        known: the names that it may use. `access_token` is always among them, since
            Synapse itself takes the token from there too.

    Raises:
        InvalidParam: a parameter is unknown, given twice, or holds odd bytes.
    """
    found: dict[str, str] = {}
    # Not `request.args`: into those Twisted mixes the body, where a client says that it is a
    # form (as curl does by default), and it leaves names without a value out.
    for pair in request.uri.partition(b"?")[2].split(b"&"):
        if not pair:
            continue
        name, _, value = map(_unquote, pair.partition(b"="))
        if name == "access_token":
            continue
        if name not in known:
            raise InvalidParam(_printable(name), f"is not known; known are: {_listed(known)}")
        if name in found:
            raise InvalidParam(name, "is given more than once")
        found[name] = _clean(name, value)
    return found


def _unquote(part: bytes) -> str:
    # What is not UTF-8 becomes U+FFFD, which nothing is allowed to contain.
    return unquote_to_bytes(part.replace(b"+", b" ")).decode("utf-8", "replace")


def _listed(known: Collection[str]) -> str:
    return ", ".join(sorted(known)) or "none"


def body(request: SynapseRequest, known: Collection[str]) -> dict[str, object]:
    """A request's JSON object; an empty body is an empty object.

    Args:
        request: the request.
        known: the keys that it may use.

    Raises:
        InvalidParam: a key is unknown: a mistyped `dryrun` must never run for real.
        SynapseError: the body is no JSON object, or one with a key that is there twice: of a
            `dry_run` that says yes and no, the last would count.
    """
    content = parse_json_object_from_request(request, allow_empty_body=True)
    if content and request.content is not None:
        request.content.seek(0)
        json.loads(request.content.read(), object_pairs_hook=_refuse_repeated)
    for key in content:
        if key not in known:
            raise InvalidParam(_printable(key), f"is not known; known are: {_listed(known)}")
    return dict(content)


def _refuse_repeated(pairs: Sequence[tuple[str, object]]) -> None:
    counts = Counter(name for name, _ in pairs)
    for name, count in counts.items():
        if count > 1:
            raise SynapseError(
                HTTPStatus.BAD_REQUEST,
                f"'{_printable(name)}' is given more than once",
                Codes.BAD_JSON,
            )


def boolean(body: Mapping[str, object], name: str, default: bool) -> bool:
    """A yes or no in a body.

    Args:
        body: the body.
        name: the key.
        default: what holds where the key is not there.

    Raises:
        InvalidParam: it is neither true nor false.
    """
    value = body.get(name, default)
    if not isinstance(value, bool):
        raise InvalidParam(name, "must be true or false")
    return value


def whole(body: Mapping[str, object], name: str, least: int, most: int) -> int | None:
    """A whole number in a body, `None` where it is not given.

    Args:
        body: the body.
        name: the key.
        least: the least number that is allowed.
        most: the largest that is.

    Raises:
        InvalidParam: it is no whole number (as JSON has them: 1.0 is none), or out of bounds.
    """
    if name not in body:
        return None
    value = body[name]
    if not isinstance(value, int) or isinstance(value, bool):
        raise InvalidParam(name, f"must be a whole number from {least} to {most}")
    return _within(name, value, least, most)


PAGE = ("from", "limit", "order_by", "dir")


def page(params: Mapping[str, str], orders: tuple[str, ...], *, newest_first: bool = False) -> Page:
    """The part of a list that a query asks for.

    Args:
        params: the query.
        orders: the fields to sort by, the default first.
        newest_first: the default direction is backwards.

    Raises:
        InvalidParam: one of its parameters makes no sense.
    """
    order_by = params.get("order_by", orders[0])
    if order_by not in orders:
        raise InvalidParam("order_by", f"must be one of: {', '.join(orders)}")
    direction = params.get("dir", "b" if newest_first else "f")
    if direction not in ("f", "b"):
        raise InvalidParam("dir", "must be 'f' (forwards) or 'b' (backwards)")
    return Page(
        start=integer(params, "from", 0, _MAX_OFFSET) or 0,
        limit=_default(integer(params, "limit", 1, MAX_LIMIT), 100),
        order_by=order_by,
        backwards=direction == "b",
    )


def _default(value: int | None, default: int) -> int:
    return default if value is None else value


def integer(params: Mapping[str, str], name: str, least: int, most: int) -> int | None:
    """A whole number in a query, `None` where it is not given.

    Args:
        params: the query.
        name: the parameter.
        least: the least number that is allowed.
        most: the largest that is.

    Raises:
        InvalidParam: it is no whole number in decimal digits, or out of bounds.
    """
    text = params.get(name)
    if text is None:
        return None
    digits = text[1:] if text.startswith("-") else text
    # Bounded before it is converted: Python refuses to read numbers of many digits.
    if not digits.isascii() or not digits.isdigit() or len(digits) > 20:
        raise InvalidParam(name, f"must be a whole number from {least} to {most}")
    return _within(name, int(text), least, most)


def _within(name: str, value: int, least: int, most: int) -> int:
    if not least <= value <= most:
        raise InvalidParam(name, f"must be a whole number from {least} to {most}")
    return value


def require_in_order(since_ts: int | None, until_ts: int | None) -> None:
    """Refuses a span of time that ends before it begins.

    Args:
        since_ts: its begin in milliseconds, `None` for an open one.
        until_ts: its end, likewise.

    Raises:
        InvalidParam: it ends before it begins.
    """
    if since_ts is not None and until_ts is not None and since_ts > until_ts:
        raise InvalidParam("since_ts", "must not be after 'until_ts'")


def room_id(value: str) -> str:
    """A room id that a request names, in its path, query or body.

    The spec's grammar ("Identifier Grammar", Room IDs): `!`, then anything opaque, in at
    most 255 bytes.

    Args:
        value: what the request has.

    Raises:
        InvalidParam: it is no room id.
    """
    return _identifier("room_id", "!", value)


def event_id(param: str, value: str) -> str:
    """An event id that a request names, in its path or body.

    The spec's grammar ("Identifier Grammar", Event IDs): `$`, then anything opaque, in
    at most 255 bytes.

    Args:
        param: what the request calls it.
        value: what the request has.

    Raises:
        InvalidParam: it is no event id.
    """
    return _identifier(param, "$", value)


def job_id(value: str) -> str:
    """A job's id from a path, of at most 255 bytes.

    Raises:
        InvalidParam: no job can have it as its id.
    """
    if len(value.encode("utf-8", "replace")) > _MAX_ID_BYTES:
        raise InvalidParam("id", f"must have at most {_MAX_ID_BYTES} bytes")
    return _clean("id", value)


def _identifier(param: str, sigil: str, value: str) -> str:
    _clean(param, value)
    if not value.startswith(sigil) or len(value) < 2 or len(value.encode()) > _MAX_ID_BYTES:
        what = "be a room id" if sigil == "!" else "hold event ids"
        raise InvalidParam(
            param, f"must {what}: '{sigil}' and what follows, in at most {_MAX_ID_BYTES} bytes"
        )
    return value


def _clean(param: str, value: str) -> str:
    # Neither database stores NUL or lone surrogates, and each fails in its own way.
    if "\0" in value or "\ufffd" in value or any("\ud800" <= c <= "\udfff" for c in value):
        raise InvalidParam(_printable(param), "contains characters that no identifier can have")
    return value


def _printable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()[:100]
