"""Path rules of a warm start (`init_rules`): rename, drop, initialise, and resizing of vocabulary and positions.

A rule is `VERB:ARGUMENT`. Patterns are those of `optim.freeze`: regular expressions of the whole paths of parameters in the
unrolled model, e.g. `layer_3/attention/query/kernel`.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

from jaxdp.errors import UserError

RENAME, DROP, INIT = "rename", "drop", "init"
RESIZE_VOCAB, MATCH_TOKENS, EXTEND_POSITIONS = "resize_vocab", "match_tokens", "extend_positions"

FILLS = ("init", "mean")
"""Values of rows that the source does not have: as the model initialises them, or the mean of the rows that are taken."""

FORMS = {
    RENAME: "rename:PATTERN->PATH",
    DROP: "drop:PATTERN",
    INIT: "init:PATTERN",
    **{verb: f"{verb}:init or {verb}:mean" for verb in (RESIZE_VOCAB, MATCH_TOKENS, EXTEND_POSITIONS)},
}
"""Verb -> form of its rules, for messages."""


class Rule(NamedTuple):
    """Rule of `init_rules`.

    Attributes:
        number: Its place in `init_rules`, from 1.
        text: As it is written there.
        verb: Key of `FORMS`.
        pattern: Regular expression of whole paths; None for the rules that resize.
        argument: New path of `rename`, which may refer to groups of the pattern; fill of the rules that resize.
    """

    number: int
    text: str
    verb: str
    pattern: re.Pattern[str] | None
    argument: str

    def matches(self, path: str) -> re.Match[str] | None:
        """Returns the match of a whole path."""
        return self.pattern.fullmatch(path) if self.pattern else None

    def __str__(self) -> str:
        return f"rule {self.number} ({self.text})"


def parse_rules(rules: Sequence[str]) -> tuple[Rule, ...]:
    """Returns the rules of `init_rules`.

    Raises:
        UserError: A rule has another form, or there are two that resize the same rows.
    """
    parsed = tuple(_parsed(number, text) for number, text in enumerate(rules, 1))
    resizing = [rule for rule in parsed if rule.pattern is None]
    for rule in resizing:
        same = {MATCH_TOKENS: RESIZE_VOCAB}.get(rule.verb, rule.verb)
        others = [each for each in resizing if each.number < rule.number and each.verb in (same, rule.verb)]
        others += [each for each in resizing if rule.verb == RESIZE_VOCAB and each.verb == MATCH_TOKENS]
        if others:
            raise UserError(f"init_rules has {others[0].text!r} and {rule.text!r}, which exclude each other; keep one.")
    return parsed


def _parsed(number: int, text: str) -> Rule:
    if not isinstance(text, str):
        raise UserError(f"init_rules has {text!r}; expected strings such as 'drop:classifier/.*'.")
    verb, colon, rest = text.partition(":")
    if not colon or verb not in FORMS or not rest:
        raise UserError(f"init_rules has {text!r}; expected {', '.join(FORMS.values())}.")
    if verb in (RENAME, DROP, INIT):
        source, arrow, target = rest.partition("->")
        if verb == RENAME and not (arrow and target):
            raise UserError(f"init_rules has {text!r}; expected {FORMS[RENAME]}.")
        return Rule(number, text, verb, _pattern(text, source if verb == RENAME else rest, target), target)
    if rest not in FILLS:
        raise UserError(f"init_rules has {text!r}; expected {FORMS[verb]}.")
    return Rule(number, text, verb, None, rest)


def _pattern(text: str, pattern: str, replacement: str) -> re.Pattern[str]:
    """Compiles a pattern, and checks that a replacement uses only groups that it has."""
    try:
        compiled = re.compile(pattern)
        # The empty alternative always matches, so that the replacement is parsed.
        re.sub(f"{pattern}|", replacement, "")
    except (re.error, IndexError) as error:
        raise UserError(f"init_rules has {text!r}, whose regular expression is wrong: {error}.") from error
    return compiled
