"""Media types: what a client accepts, what it sends, what may be stored."""

from __future__ import annotations

from functools import lru_cache

from multidict import CIMultiDictProxy, istr

from kvstore.http.outgoing.problems import Problem

CONTENT_TYPE_CHARACTERS_MAX = 256
"""It is kept beside every value and sent with every read of it."""
DEFAULT = "application/octet-stream"

ACCEPT = istr("Accept")
CONTENT_TYPE = istr("Content-Type")
CONTENT_ENCODING = istr("Content-Encoding")

Headers = CIMultiDictProxy[str]


def require_acceptable(headers: Headers, media_type: str) -> None:
    """Raises Problem not-acceptable when the client's Accept leaves out what it would be sent."""
    accept = headers.get(ACCEPT)
    if accept is None or accept == "*/*":
        return
    accept = ",".join(headers.getall(ACCEPT))
    if not accepts(accept, media_type):
        raise Problem("not-acceptable", f"This answers with {media_type}, which the Accept header leaves out.")


@lru_cache(1_024)
def accepts(accept: str, media_type: str) -> bool:
    """Whether the header takes the media type: the most specific range that fits it decides (RFC 9110, 12.5.1)."""
    wanted = media_type.partition(";")[0].strip().lower()
    ranges = (wanted, wanted.partition("/")[0] + "/*", "*/*")
    weights: dict[str, bool] = {}
    for part in accept.lower().split(","):
        name, *parameters = (piece.strip() for piece in part.split(";"))
        weights.setdefault(name, not any(_is_zero(parameter) for parameter in parameters))
    return next((weights[name] for name in ranges if name in weights), False)


def _is_zero(parameter: str) -> bool:
    name, _, weight = parameter.partition("=")
    return name.strip() == "q" and weight.strip().rstrip("0") in ("0.", ".", "")


def stored_type(headers: Headers) -> str:
    """The Content-Type to keep with a value. Raises Problem."""
    return checked_type(headers.get(CONTENT_TYPE) or DEFAULT)


@lru_cache(1_024)
def checked_type(text: str) -> str:
    """The type itself, if it may be sent back in a header. Raises Problem."""
    if len(text) <= CONTENT_TYPE_CHARACTERS_MAX and text.isascii() and text.isprintable():
        return text
    limit = CONTENT_TYPE_CHARACTERS_MAX
    raise Problem(
        "bad-parameter",
        f"Content-Type: it must be at most {limit} printable ASCII characters; nothing was written.",
        parameter="Content-Type",
    )


def refuse_encoding(headers: Headers) -> None:
    """Values are kept as they come, so a coded body would be read back coded and undeclared."""
    coding = headers.get(CONTENT_ENCODING)
    if coding is not None and coding.lower() != "identity":
        raise Problem(
            "unsupported-media-type",
            f"Content-Encoding {coding!a:.40} is not taken; send the plain bytes, or name the form in Content-Type.",
        )


def require_json(headers: Headers) -> None:
    """A form or a text can be sent by any web page without asking; JSON can't. Raises Problem."""
    text = headers.get(CONTENT_TYPE, "")
    if not _is_json(text):
        raise Problem("unsupported-media-type", f"Send Content-Type: application/json here, not {text!a:.80}.")


@lru_cache(64)
def _is_json(text: str) -> bool:
    name, *parameters = (piece.strip() for piece in text.lower().split(";"))
    charsets = [parameter for parameter in parameters if parameter.startswith("charset=")]
    return name == "application/json" and all(charset.replace('"', "") == "charset=utf-8" for charset in charsets)
