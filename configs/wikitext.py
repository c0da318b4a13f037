"""WikiText-103, a dataset of the Hugging Face Hub, prepared once (needs network the first time).

    jaxdp prepare --config=configs/wikitext.py
    jaxdp train   --config=configs/wikitext.py --workdir=runs/wikitext

Without network: datasets.load_dataset(...).save_to_disk(FOLDER) on a machine that has
it, then --config.data.path=FOLDER. Not run yet: the Hub was not reachable.
"""

from jaxdp import defaults


def get_config():
    config = defaults.get_config()
    config.total_epochs = 1.0
    config.global_batch_size = 64

    config.data.source = "hf"
    config.data.path = "Salesforce/wikitext"
    config.data.name = "wikitext-103-raw-v1"
    config.data.split = "train"
    config.data.eval_split = "validation"
    config.data.cleaning = ("min_chars:1",)  # the dataset has empty lines as records
    config.data.tokenizer = "bpe:32000"
    config.data.length = 512

    config.model.preset = "llama_nano"
    config.model.embed_dim = 512
    config.model.num_layers = 8
    config.model.num_heads = 8
    config.model.mlp_dim = 1408
    return config
