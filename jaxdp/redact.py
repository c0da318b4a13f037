"""Redaction of text for terminals and logs: masks secrets in URLs and escapes control characters.

Results, such as generated text, keep strings that look like secrets; only their control characters are
escaped.
"""

import re
from collections.abc import Mapping

TYPE_CHECKING = False  # type checkers take it for True; `jaxdp --help` does without typing, which is slow to import
if TYPE_CHECKING:
    from typing import Any

MASK = "***"
"""Replacement of a secret."""

# Patterns are strings, compiled at first use: `jaxdp --help` imports this file too.

_SECRET_NAME = r"(?i)token|secret|passw(?:or)?d|pwd|passphrase|signature|credential|api[_\-]?key|access[_\-]?key|auth|^(?:key|sig|code)$"
"""Pattern in the names of query parameters whose value grants access."""

_SCHEME = r"[A-Za-z][\w+.\-]{0,30}://"
"""Scheme of a URL; its length is bounded, since an unbounded search takes quadratic time in a long word."""

_USERINFO = rf"(?P<scheme>{_SCHEME})(?P<userinfo>[^\s/?#\"'<>]*)@"
_UNENCODED_PASSWORD = rf"({_SCHEME}[^\s/?#:@\"'<>]*):(?!:|\d+(?:[/?#]|$))(?:(?!://)[^\s\"'<>@])*@"
"""User information whose password contains `/`: the text after the colon is not a port."""

_QUERY_VALUE = r"([?&;])([\w.\-]+)=[^\s&;#\"'<>]+"
_URL = rf"{_SCHEME}[^\s\"'<>]*"

_CONTROL = "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
"""C0 without tab and newline, DEL, C1, marks that reorder text, and lone surrogates."""


def mask_secrets(text: str) -> str:
    """Replaces passwords and access tokens in URLs by `***`.

    Args:
        text: Any text; only URLs in it change. Masked are the password before the host, under http(s)
            also a user name without password, which may be a token, and the values of query parameters
            such as `token`, `sig` and `X-Amz-Signature`.
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


def mask_environment(text: str, environment: Mapping[str, str]) -> str:
    """Replaces the secrets of an environment, such as the value of WANDB_API_KEY, and those of URLs by `***`.

    Args:
        text: Any text, such as the message of a package that was given the secrets.
        environment: Variables by name. Those whose name says that they grant access are masked from eight characters on.
    """
    secrets = [value for name, value in environment.items() if len(value) >= 8 and re.search(_SECRET_NAME, name)]
    for value in sorted(secrets, key=len, reverse=True):
        text = text.replace(value, MASK)
    return mask_secrets(text)


def is_masked(text: str) -> bool:
    """Returns True if `mask_secrets` has masked a secret of a URL in the text."""
    return "://" in text and MASK in text and mask_secrets(text) == text


def masked_values(value: "Any") -> "Any":
    """Returns a copy of a JSON value with `mask_secrets` applied to its strings."""
    if isinstance(value, str):
        return mask_secrets(value)
    if isinstance(value, Mapping):
        return {key: masked_values(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [masked_values(inner) for inner in value]
    return value


def escape_controls(text: str) -> str:
    r"""Writes control characters as escapes such as `\x1b`, so that text cannot move the cursor or hide.

    Tabs and newlines stay.
    """
    return re.sub(_CONTROL, _escaped, text)


def _escaped(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def escape_json_controls(text: str) -> str:
    r"""Writes control characters as `\u` and four digits, which is also valid in JSON strings."""
    return re.sub(_CONTROL, lambda match: f"\\u{ord(match[0]):04x}", text)


def redact(text: str) -> str:
    """Masks secrets and escapes control characters, for terminals and logs."""
    return escape_controls(mask_secrets(text))
