"""Error messages for texts without tokens, each with its fix."""

from jaxdp.quoting import quoted


def reason(name: str, text: str) -> str:
    """Returns why a text cannot be used, in prediction as in training.

    Args:
        name: Field of the text: text, source or target.
        text: Text after cleaning that has no token.
    """
    if not text:
        return f"the {name} is empty, expected some text"
    return f"the {name} {quoted(text)} has no token, expected some text that the tokenizer knows"


def cure(text: str) -> str:
    """Returns how to leave such records out of training data."""
    if not text:
        return "leave such records out, with 'min_chars:1' as the last step of data.cleaning"
    if text.isspace():
        min_chars = 2 if "\n" in text else 1  # `whitespace` keeps the line break of an empty line
        return f"leave such records out, with 'whitespace' and then 'min_chars:{min_chars}' as the last steps of data.cleaning"
    return "leave the record out, or choose a data.tokenizer that has tokens for it, such as byte"
