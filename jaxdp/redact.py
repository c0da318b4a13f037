"""Redaction of text for people: secrets in URLs are masked, control characters escaped.

Both are applied where text leaves the program: terminal, log, tables. Results that are data, such as
generated text, keep what looks like a secret, and only have their control characters escaped.
"""

import re
from collections.abc import Mapping

MASK = "***"
"""Stands for a secret."""

# Patterns are strings, compiled at first use: `jaxdp --help` imports this file too.

_SECRET_NAME = (
    r"(?i)token|secret|passw(?:or)?d|pwd|passphrase|signature|credential|api[_\-]?key|access[_\-]?key|auth|^(?:key|sig|code)$"
)
"""Found in names of query parameters whose value grants access."""

_SCHEME = r"[A-Za-z][\w+.\-]{0,30}://"
"""Bounded, as a search from every letter of a long word would take time that grows with its square."""

_USERINFO = rf"(?P<scheme>{_SCHEME})(?P<userinfo>[^\s/?#\"'<>]*)@"
_UNENCODED_PASSWORD = rf"({_SCHEME}[^\s/?#:@\"'<>]*):(?!:|\d+(?:[/?#]|$))(?:(?!://)[^\s\"'<>@])*@"
"""A password with a `/` in it: what follows the colon is no port."""

_QUERY_VALUE = r"([?&;])([\w.\-]+)=[^\s&;#\"'<>]+"
_URL = rf"{_SCHEME}[^\s\"'<>]*"

_CONTROL = "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
"""C0 without tab and newline, DEL, C1, marks that reorder text, and lone surrogates."""


def mask_secrets(text: str) -> str:
    """Replaces passwords and access tokens in URLs by `***`.

    Args:
        text: Any text; only URLs in it change. Of the user information before the host the password is
            masked, and under http(s) a lone user name too, as it may be a token; of the query, the values
            of parameters such as `token`, `sig` and `X-Amz-Signature`.
    """
    if "://" not in text:
        return text
    text = re.sub(_USERINFO, _masked_userinfo, text)
    text = re.sub(_UNENCODED_PASSWORD, rf"\1:{MASK}@", text)
    return re.sub(_URL, lambda url: re.sub(_QUERY_VALUE, _masked_value, url[0]), text)


def _masked_userinfo(match: re.Match[str]) -> str:
    scheme, (user, colon, _) = match["scheme"], match["userinfo"].partition(":")
    if colon:
        return f"{scheme}{user}:{MASK}@"
    return f"{scheme}{MASK}@" if scheme.lower() in ("http://", "https://") else match[0]


def _masked_value(match: re.Match[str]) -> str:
    separator, name = match.groups()
    return f"{separator}{name}={MASK}" if re.search(_SECRET_NAME, name) else match[0]


def is_masked(text: str) -> bool:
    """Whether a URL in the text has lost a secret to `mask_secrets`."""
    return "://" in text and MASK in text and mask_secrets(text) == text


def masked_values(value):
    """A copy of a JSON value whose strings have passed `mask_secrets`."""
    if isinstance(value, str):
        return mask_secrets(value)
    if isinstance(value, Mapping):
        return {key: masked_values(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [masked_values(inner) for inner in value]
    return value


def escape_controls(text: str) -> str:
    """Writes control characters as escapes such as `\\x1b`, so that no text can move the cursor or hide.

    Tabs and newlines stay.
    """
    return re.sub(_CONTROL, _escaped, text)


def _escaped(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def escape_json_controls(text: str) -> str:
    """Writes control characters as `\\u` and four digits, which JSON strings know too."""
    return re.sub(_CONTROL, lambda match: f"\\u{ord(match[0]):04x}", text)


def redact(text: str) -> str:
    """Masks secrets and escapes control characters: the form of a text in terminals and logs."""
    return escape_controls(mask_secrets(text))
