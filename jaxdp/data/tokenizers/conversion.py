"""Conversion of older vocabulary files to a tokenizer.json: WordPiece `vocab.txt`, byte-level BPE, SentencePiece unigram.

Source: the fast tokenizers of transformers 5 (tokenization_bert.py, tokenization_gpt2.py, tokenization_roberta.py,
tokenization_t5.py, tokenization_xlm_roberta.py), whose ids these give.
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

from jaxdp.data.tokenizers.sentencepiece import UNIGRAM, SentencePieceModel, read_sentencepiece
from jaxdp.errors import UserError
from jaxdp.json_files import read_json

VOCABULARIES = (
    "vocab.txt", "vocab.json", "spiece.model", "sentencepiece.bpe.model", "tokenizer.model", "source.spm",
)  # fmt: skip
"""Vocabulary files of folders without tokenizer.json."""

_SPECIAL = ("unk_token", "bos_token", "eos_token", "sep_token", "pad_token", "cls_token", "mask_token")
"""Keys of tokenizer_config.json with the name of a special token."""

_BERT = {
    "unk_token": "[UNK]", "sep_token": "[SEP]", "pad_token": "[PAD]", "cls_token": "[CLS]", "mask_token": "[MASK]",
}  # fmt: skip
_ROBERTA = {
    "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "sep_token": "</s>", "pad_token": "<pad>",
    "cls_token": "<s>", "mask_token": "<mask>",
}  # fmt: skip
_GPT2 = {"unk_token": "<|endoftext|>", "bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}
_T5 = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}


class Converted(NamedTuple):
    """Content of a tokenizer.json, and the path of the vocabulary that it was made of."""

    content: str
    path: Path


def convert_vocabulary(folder: Path, model_type: str) -> Converted | None:
    """Converts the vocabulary of a Hugging Face folder without tokenizer.json.

    Args:
        folder: The folder.
        model_type: Value of `model_type` in its config.json.

    Returns:
        The tokenizer; None: the folder has no vocabulary, or one that is not converted.

    Raises:
        UserError: The vocabulary is damaged, or has settings that are not supported.
    """
    name, convert = CONVERTERS.get(model_type, ("", None))
    if convert is None or not (folder / name).is_file():
        return None
    path = folder / "tokenizer_config.json"
    settings = read_json(path, "a tokenizer_config.json") if path.is_file() else {}
    return Converted(convert(folder, settings).to_str(), folder / name)


def why_no_tokenizer(folder: Path) -> str:
    """Returns a sentence for a folder whose tokenizer is not known."""
    present = [name for name in VOCABULARIES if (folder / name).is_file()]
    if not present:
        return f"{folder} has no tokenizer.json, so only commands on token ids work"
    return (
        f"{folder} has no tokenizer.json, and {present[0]} of such a model is not converted, so only commands on token ids work; "
        "where transformers has a fast tokenizer for it, `AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)` writes one"
    )


def _wordpiece(folder: Path, settings: Mapping[str, Any]) -> Tokenizer:
    lines = (folder / "vocab.txt").read_text(encoding="utf-8").split("\n")
    vocabulary = {token.rstrip("\r"): number for number, token in enumerate(lines[: -1 if lines[-1] == "" else None])}
    names = _names(settings, _BERT)
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=names["unk_token"]))
    tokenizer.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=settings.get("tokenize_chinese_chars", True),
        strip_accents=settings.get("strip_accents"),
        lowercase=settings.get("do_lower_case", True),
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    return _with_special(tokenizer, names.values())


def _byte_level(folder: Path, settings: Mapping[str, Any], names: Mapping[str, str]) -> Tokenizer:
    merges_path = folder / "merges.txt"
    if not merges_path.is_file():
        raise UserError(f"{folder} has vocab.json without merges.txt; copy both.")
    lines = merges_path.read_text(encoding="utf-8").split("\n")
    pairs = (line.partition(" ") for line in lines if line.strip() and not line.startswith("#version"))
    merges = [(first, second) for first, _, second in pairs]
    vocabulary = read_json(folder / "vocab.json", "the vocabulary of a byte-level BPE")
    tokenizer = Tokenizer(models.BPE(dict(vocabulary), merges, continuing_subword_prefix="", end_of_word_suffix=""))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=settings.get("add_prefix_space", False))
    tokenizer.decoder = decoders.ByteLevel()
    return _with_special(tokenizer, _names(settings, names).values())


def _t5(folder: Path, settings: Mapping[str, Any]) -> Tokenizer:
    model = read_sentencepiece(folder / "spiece.model")
    sentinels = [f"<extra_id_{number}>" for number in reversed(range(settings.get("extra_ids", 100)))]
    pieces = [(piece.text, piece.score) for piece in model.pieces] + [(name, 0.0) for name in sentinels]
    return _unigram(folder, model, pieces, model.unk_id, [*_names(settings, _T5).values(), *sentinels])


def _xlm_roberta(folder: Path, settings: Mapping[str, Any]) -> Tokenizer:
    model = read_sentencepiece(folder / "sentencepiece.bpe.model")
    names = _names(settings, _ROBERTA)
    first = [(names[key], 0.0) for key in ("bos_token", "pad_token", "eos_token", "unk_token")]  # the order of fairseq
    pieces = [*first, *((piece.text, piece.score) for piece in model.pieces[3:]), (names["mask_token"], 0.0)]
    return _unigram(folder, model, pieces, 3, list(names.values()))


def _unigram(
    folder: Path, model: SentencePieceModel, pieces: list[tuple[str, float]], unk_id: int, special: list[str]
) -> Tokenizer:
    """Returns the tokenizer of a unigram model whose pieces are separated at blanks."""
    if model.algorithm != UNIGRAM or model.byte_fallback or not (model.adds_prefix and model.removes_blanks):
        raise UserError(
            f"the SentencePiece model of {folder} is no unigram model with a blank before each text and without byte "
            "fallback; write its tokenizer.json with transformers."
        )
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id))
    if model.charsmap:
        tokenizer.normalizer = normalizers.Precompiled(model.charsmap)
    blanks = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), blanks])
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    return _with_special(tokenizer, special)


def _names(settings: Mapping[str, Any], usual: Mapping[str, str]) -> dict[str, str]:
    """Returns the special tokens of tokenizer_config.json, where a token is a string or has its name in `content`."""
    given = {key: settings[key] for key in _SPECIAL if settings.get(key)}
    return {**usual, **{key: value["content"] if isinstance(value, Mapping) else value for key, value in given.items()}}


def _with_special(tokenizer: Tokenizer, names: Iterable[str]) -> Tokenizer:
    """Declares special tokens of the vocabulary, in the order of their ids; a name without an id stays absent."""
    ids = {name: number for name in names if (number := tokenizer.token_to_id(name)) is not None}
    tokenizer.add_special_tokens(
        [AddedToken(name, special=True, normalized=False) for name in sorted(ids, key=ids.__getitem__)]
    )
    return tokenizer


CONVERTERS: Mapping[str, tuple[str, Callable[[Path, Mapping[str, Any]], Tokenizer]]] = {
    "bert": ("vocab.txt", _wordpiece),
    "distilbert": ("vocab.txt", _wordpiece),
    "gpt2": ("vocab.json", lambda folder, settings: _byte_level(folder, settings, _GPT2)),
    "roberta": ("vocab.json", lambda folder, settings: _byte_level(folder, settings, _ROBERTA)),
    "t5": ("spiece.model", _t5),
    "mt5": ("spiece.model", _t5),
    "xlm-roberta": ("sentencepiece.bpe.model", _xlm_roberta),
}
"""Value of `model_type` -> vocabulary file and its conversion."""
