"""Registry of weight families: value of `model_type` in config.json -> family."""

from jaxdp.interop.families.bert import BERT
from jaxdp.interop.families.distilbert import DISTILBERT
from jaxdp.interop.families.family import Family
from jaxdp.interop.families.gemma3 import GEMMA3
from jaxdp.interop.families.gpt2 import GPT2
from jaxdp.interop.families.llama import LLAMA, MISTRAL
from jaxdp.interop.families.marian import MARIAN
from jaxdp.interop.families.modernbert import MODERNBERT
from jaxdp.interop.families.qwen import QWEN2, QWEN3
from jaxdp.interop.families.roberta import ROBERTA, XLM_ROBERTA
from jaxdp.interop.families.t5 import MT5, T5

FAMILIES: dict[str, Family] = {
    family.model_type: family
    for family in (
        *(BERT, ROBERTA, XLM_ROBERTA, DISTILBERT, MODERNBERT),
        *(GPT2, LLAMA, MISTRAL, QWEN2, QWEN3, GEMMA3),
        *(T5, MT5, MARIAN),
    )
}
