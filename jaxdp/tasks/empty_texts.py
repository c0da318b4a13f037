"""Messages for texts without tokens, with a fix that suits the text."""

from jaxdp.quoting import quoted


def reason(name: str, text: str) -> str:
    """Returns why a text cannot be used, for a prediction as for training.

    Args:
        name: What the task calls it: text, source or target.
        text: Text after cleaning, of which a tokenizer makes no token.
    """
    if not text:
        return f"the {name} is empty, expected some text"
    return f"the {name} {quoted(text)} has no token, expected some text that the tokenizer knows"


def cure(text: str) -> str:
    """Returns how to leave such records out of training data."""
    if not text:
        return "leave such records out, with 'min_chars:1' as the last step of data.cleaning"
    if text.isspace():
        fewest = 2 if "\n" in text else 1  # of an empty line `whitespace` leaves its end
        return f"leave such records out, with 'whitespace' and then 'min_chars:{fewest}' as the last steps of data.cleaning"
    return "leave the record out, or choose a data.tokenizer that has tokens for it, such as byte"
