"""Configuration keys with their defaults and meanings.

A recipe starts from here and changes what it needs:

    from jaxdp import defaults

    def get_config():
        config = defaults.get_config()
        config.data.length = 128
        return config

A `placeholder(type)` is an optional key; its comment gives the meaning of an unset key.
0 means off for `clip_norm`, `ema_decay` and every `every_*`. Sequences
are tuples. The resolved values of a run are in its `config.json`.
`docs/generate.py` generates the reference `docs/configuration.md` from these lines.

The default of a new key must be the behaviour without it: a run that was saved
before has that default when it resumes.
"""

from typing import TYPE_CHECKING, Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

if TYPE_CHECKING:

    class Config(ConfigDict):
        """ConfigDict of these keys, whose groups type checkers let a program change.

        The annotations of `ml_collections` make `config.data` a number or a string as well as a group, so that
        `config.data.path = "a.txt"` would be refused.
        """

        def __getattr__(self, attribute: str) -> Any: ...
        def __getitem__(self, key: str) -> Any: ...
        def lock(self) -> "Config": ...
        def unlock(self) -> "Config": ...

else:
    Config = ConfigDict


def get_config() -> Config:
    """Returns the default configuration, a new copy at each call."""
    config = Config()

    config.task = "causal_lm"  # name of a registered task: causal_lm | masked_lm | classification | seq2seq | embedding
    config.seed = 0  # fixes parameters, batches and dropout masks

    # Length of the run: set exactly one.
    config.total_steps = placeholder(int)  # optimizer updates
    config.total_epochs = placeholder(float)  # passes over the training sequences
    config.total_tokens = placeholder(float)  # training positions, padding included

    config.global_batch_size = 32  # sequences of one update, over all devices of all processes
    config.microbatch_size = placeholder(object)  # sequences per device and pass: a whole number | auto (the largest that leaves 10 % of the memory free); unset: the device's whole share
    config.init_from = placeholder(str)  # initial parameters: workdir, checkpoint, Hugging Face folder, .safetensors file or Orbax directory, or hf:NAME on the Hub; unset keys of model are those of its model

    config.init_rules = ()  # changes of these: "rename:PATTERN->PATH" | "drop:PATTERN" (paths of the source) | "init:PATTERN" (paths of the new model, initialised) | "resize_vocab:FILL" | "match_tokens:FILL" (own tokenizer, rows by token) | "extend_positions:FILL"; FILL of new rows: init | mean
    config.init_average = placeholder(str)  # last:K | best:K: the mean of these checkpoints of a work directory

    config.data = ConfigDict()
    # Source and splits.
    config.data.source = "stdlib"  # stdlib | text | jsonl | csv | parquet | tokens | hf | hf_stream | python: records given to jaxdp.train
    config.data.path = placeholder(str)  # file, folder, glob, URL or Hub name; needed by every source but stdlib and python
    config.data.name = placeholder(str)  # hf: configuration of the dataset; python: fingerprint of the records
    config.data.split = placeholder(str)  # hf: the training split; unset: train
    config.data.eval_split = placeholder(str)  # hf: the validation split; unset: eval_fraction of the training split
    config.data.eval_path = placeholder(str)  # files of the validation split; unset: eval_fraction of data.path
    config.data.target_path = placeholder(str)  # text, for seq2seq and completion_only: files whose line N is the target of line N of data.path
    config.data.eval_target_path = placeholder(str)  # the same for data.eval_path
    config.data.test_path = placeholder(str)  # files that `jaxdp eval --split=test` measures; training does not read them
    config.data.test_split = placeholder(str)  # hf: the split that `jaxdp eval --split=test` measures
    config.data.eval_fraction = 0.1  # size of the validation split: with tail by characters of one file and by file of several, else by documents
    config.data.eval_selection = "tail"  # tail: the last eval_fraction | random: whole documents, by a hash of their number with seed | stratified: the same for each label
    config.data.text_column = "text"  # column of the text: jsonl, csv, parquet, hf
    config.data.label_column = "label"  # column of the label: classification
    config.data.source_column = "source"  # column of the source: seq2seq and completion_only
    config.data.target_column = "target"  # column of the target: seq2seq and completion_only
    config.data.errors = "strict"  # bytes that are invalid in the encoding, and NUL characters: strict raises an error | replace reads U+FFFD
    config.data.encoding = placeholder(str)  # text, jsonl, csv: encoding of the files, a Python codec such as latin-1 or utf-16; unset: UTF-8
    config.data.delimiter = placeholder(str)  # csv: character between fields, such as ';'; unset: comma, in .tsv files tab
    config.data.mixture = ()  # instead of one source: ({"source": ..., "path": ..., "weight": 1.0}, ...)
    config.data.temperature = 1.0  # mixture entries without weight: share ~ (number of sequences) ^ (1 / temperature)
    # Cleaning, tokens and sequences.
    config.data.cleaning = ()  # steps in order, such as ("unicode:NFC", "whitespace"); see jaxdp/data/cleaning/steps.py
    config.data.tokenizer = "byte"  # byte | char | bpe:N | wordpiece:N | unigram:N | hf:NAME | FILE.json
    config.data.target_tokenizer = placeholder(str)  # seq2seq: tokenizer of the target; unset: data.tokenizer, trained on source and target
    config.data.length = 256  # tokens of a sequence that the model sees; a window reads one more
    config.data.target_length = placeholder(int)  # seq2seq: tokens of a target; unset: data.length
    config.data.packing = placeholder(str)  # cut: windows of the joined documents | documents: whole documents packed together | none: one example a sequence; unset: the task's default
    config.data.long_documents = "error"  # documents longer than a sequence: error | cut | drop (not for packing=cut)
    config.data.augmentation = ()  # random changes of training examples, in order: token_dropout:RATE, random_deletion:RATE, random_swap:RATE
    # Order.
    config.data.balanced = False  # classification: samples every label equally often
    config.data.shuffle = True  # a new order of the sequences each epoch; False: corpus order
    config.data.shuffle_buffer = 0  # hf_stream: records in the shuffle buffer, which makes resuming inexact; 0: shuffles shards only
    config.data.partition = "block"  # assignment of a batch's sequences to processes: block | strided | random
    # Preparation: does not change batches.
    config.data.cache_dir = placeholder(str)  # directory of prepared data; unset: ~/.cache/jaxdp/data
    config.data.num_workers = placeholder(int)  # processes that tokenize; unset: by the size of the data, up to the number of cores
    config.data.prefetch_batches = 2  # batches placed on the devices ahead of the step

    config.model = ConfigDict()
    config.model.preset = placeholder(str)  # a table of shapes in jaxdp/model/presets.py, overridden by the keys below; unset: nano, encoder_nano or seq2seq_nano
    config.model.vocab_size = placeholder(int)  # unset: the tokenizer's
    config.model.architecture = placeholder(str)  # decoder | encoder | encoder_decoder
    config.model.num_layers = placeholder(int)  # layers; in an encoder-decoder those of the encoder
    config.model.num_decoder_layers = placeholder(int)  # layers of the decoder of an encoder-decoder
    config.model.num_heads = placeholder(int)  # attention heads; must divide embed_dim, unless head_dim is set
    config.model.num_kv_heads = placeholder(int)  # fewer than num_heads: grouped-query attention
    config.model.embed_dim = placeholder(int)  # width of a token
    config.model.head_dim = placeholder(int)  # width of a head; unset: embed_dim / num_heads
    config.model.mlp_dim = placeholder(int)  # width inside the MLP
    config.model.dropout_rate = placeholder(float)  # on embeddings, attention and residual branches
    config.model.attention_dropout_rate = placeholder(float)  # on attention probabilities, which only plain attention supports; unset: dropout_rate
    config.model.attention_window = placeholder(int)  # self-attention sees the keys less than this number of tokens away, the token itself included; 0: all
    config.model.attention_window_pattern = placeholder(tuple)  # layers with the window (1) and without (0), repeated, such as (1, 1, 0); (): all have it
    config.model.attention_logit_softcap = placeholder(float)  # bounds attention scores smoothly to plus and minus this; 0: no bound
    config.model.attention_scale = placeholder(float)  # factor of attention scores; unset: head_dim ** -0.5
    config.model.qkv_bias = placeholder(bool)  # biases of queries, keys and values; unset: use_bias
    config.model.qk_norm = placeholder(bool)  # a norm on the queries and keys of each head
    config.model.zero_init_residual = placeholder(bool)  # output projections of attention and MLP start at zero
    config.model.residual_scalars = placeholder(bool)  # learned factors of the residual stream and of the embeddings, which are added before each layer
    config.model.output_bias = placeholder(bool)  # a bias of the logits of the vocabulary; unset: with use_bias in masked_lm
    config.model.output_scale = placeholder(float)  # factor of the hidden states that become logits
    config.model.value_embeddings = placeholder(bool)  # learned embeddings of the tokens, added to the values of attention in every second layer
    config.model.logit_softcap = placeholder(float)  # bounds the logits of the vocabulary smoothly to plus and minus this; 0: no bound
    config.model.norm = placeholder(str)  # layernorm | rmsnorm
    config.model.norm_position = placeholder(str)  # pre | post | both
    config.model.first_attention_norm = placeholder(bool)  # False: no norm before the attention of the first layer
    config.model.norm_epsilon = placeholder(float)  # added to the variance
    config.model.norm_offset = placeholder(float)  # added to the learned scale of norms, which starts at 1 - norm_offset
    config.model.embedding_norm = placeholder(bool)  # a norm on the embeddings too
    config.model.embedding_scale = placeholder(float)  # factor of token embeddings; unset: embed_dim ** 0.5 with sinusoidal positions, else 1
    config.model.num_token_types = placeholder(int)  # segment types of an encoder; 0: none
    config.model.positions = placeholder(str)  # learned | sinusoidal | rotary | relative
    config.model.position_offset = placeholder(int)  # index of the first learned position; RoBERTa: id of [PAD] + 1
    config.model.relative_buckets = placeholder(int)  # buckets of relative positions
    config.model.relative_max_distance = placeholder(int)  # tokens from which on all distances share the last bucket
    config.model.rotary_base = placeholder(float)  # wavelength base of rotary positions
    config.model.rotary_local_base = placeholder(float)  # the same in layers with a window, which rope_scaling then leaves alone; 0: rotary_base
    config.model.rotary_fraction = placeholder(float)  # fraction of the features of a head that rotate
    config.model.rope_scaling = placeholder(str)  # rotary positions beyond the length of pre-training: none | linear | llama3 | yarn
    config.model.rope_factor = placeholder(float)  # number by which low frequencies are divided
    config.model.rope_low_freq_factor = placeholder(float)  # llama3: rotations over the original length below which a frequency is divided; yarn: beta_slow
    config.model.rope_high_freq_factor = placeholder(float)  # llama3: rotations above which a frequency is kept; yarn: beta_fast
    config.model.rope_original_length = placeholder(int)  # llama3, yarn: tokens of the pre-training
    config.model.rope_attention_factor = placeholder(float)  # yarn: factor of cosines and sines; 0: 0.1 ln(rope_factor) + 1
    config.model.activation = placeholder(str)  # gelu | gelu_tanh | relu | relu2 | silu; with a gate: swiglu | geglu | geglu_tanh
    config.model.use_bias = placeholder(bool)  # biases in dense layers and layernorm
    config.model.tie_embeddings = placeholder(bool)  # output layer = input embedding
    config.model.share_embeddings = placeholder(bool)  # encoder-decoder: one embedding for source and target
    config.model.pooler = placeholder(str)  # layer of a classifier after pooling: none | tanh | relu | gelu_norm; auto: tanh for pooling=first, else none
    config.model.classifier_bias = placeholder(bool)  # a bias of the class scores
    config.model.dtype = "auto"  # compute: float32 | bfloat16; auto: bfloat16 on GPU and TPU
    config.model.remat = "none"  # what layers recompute in the backward pass to save memory: none | dots_attention (all but dense layers and attention) | dots (all but dense layers) | attention (all but attention) | full
    config.model.scan_layers = False  # one compiled layer run num_layers times: compiles faster
    config.model.attention = "auto"  # plain | cudnn (NVIDIA) | splash (TPU); auto: the fused kernel of the platform where it supports the model, else plain
    config.model.loss_chunk = placeholder(int)  # tokens whose logits a loss holds at once; unset: 1024, or more if their logits fit 256 MiB; 0: all of a microbatch
    config.model.lora_rank = placeholder(int)  # rank of low-rank adapters of dense layers, which alone are trained, with a classifier; 0: none
    config.model.lora_alpha = placeholder(float)  # adapters add lora_alpha / lora_rank times their product; 0: lora_rank
    config.model.lora_layers = placeholder(tuple)  # regular expressions of the layers with an adapter, such as ("attention/.*", "mlp/up")

    # Groups of the tasks: a run reads the group of its own task only.
    config.causal_lm = ConfigDict()
    config.causal_lm.completion_only = False  # learns data.target_column only, given data.source_column
    config.causal_lm.separator = "\n"  # between source and target
    config.masked_lm = ConfigDict()
    config.masked_lm.mask_rate = 0.15  # fraction of the text to predict
    config.masked_lm.whole_words = False  # hides whole words instead of tokens
    config.masked_lm.num_candidates = 10  # tokens that predict gives for each [MASK]
    config.classification = ConfigDict()
    config.classification.kind = "single_label"  # single_label | multi_label | regression
    config.classification.pooling = placeholder(str)  # hidden states that represent the text: first | mean | last; unset: as in the classifier of init_from, else mean
    config.classification.class_weights = "none"  # none | balanced | numbers separated by commas, one a label in the order of their names
    config.classification.label_separator = ","  # between several labels of one text
    config.embedding = ConfigDict()
    config.embedding.pooling = "mean"  # hidden states that represent the text: first | mean | last
    config.embedding.normalize = True  # vectors have length 1
    config.embedding.max_length = placeholder(int)  # tokens of a text that are read, special ones included; unset: data.length
    config.seq2seq = ConfigDict()
    config.seq2seq.start_id = placeholder(int)  # id of the first token that the decoder reads; unset: end of the text
    config.seq2seq.bleu_tokenize = "13a"  # tokenization of BLEU in sacrebleu: 13a | intl | zh | ...

    config.optim = ConfigDict()
    config.optim.name = "adamw"  # adamw | adam | sgd | momentum | rmsprop | adagrad | adafactor | lion | muon | normuon
    config.optim.learning_rate = 1e-3  # peak, after warm-up
    config.optim.schedule = "cosine"  # constant | linear | cosine | rsqrt | wsd, after a linear warm-up
    config.optim.warmup_steps = 100  # updates
    config.optim.end_learning_rate = 0.0  # at total_steps; not used by constant and rsqrt
    config.optim.weight_decay = 0.1  # decoupled; on parameters of rank 2 or more within a layer
    config.optim.weight_decay_end = placeholder(float)  # weight decay at total_steps, reached linearly; unset: weight_decay
    config.optim.cautious = False  # weight decay only on elements that the update moves towards zero too
    config.optim.b1 = 0.9  # decay of the mean gradient
    config.optim.b2 = 0.95  # decay of the mean squared gradient
    config.optim.eps = 1e-8  # keeps the denominator above zero
    config.optim.momentum = 0.9  # momentum, rmsprop, muon and normuon
    config.optim.clip_norm = 1.0  # maximum global gradient norm; 0: off
    config.optim.ema_decay = 0.0  # decay of the moving average of the parameters; 0: off
    config.optim.label_smoothing = 0.0  # fraction of the target's probability spread over the vocabulary
    config.optim.l1 = 0.0  # penalty on absolute values, a part of the objective
    config.optim.l2 = 0.0  # penalty on half the squares, a part of the objective; weight_decay is the decoupled one
    config.optim.freeze = ()  # regular expressions of the paths of parameters that are not trained
    config.optim.scales = ()  # (regular expression, factor) pairs: learning rate of single parameters
    config.optim.layer_decay = 1.0  # factor of the learning rate from each layer to the one below; 1: off
    config.optim.z_loss = 0.0  # weight of the penalty log(Z)^2 against drifting logits
    config.optim.spike_factor = 0.0  # skips an update whose loss is above this multiple of the running mean; 0: off
    config.optim.max_skipped_in_a_row = 10  # updates skipped (non-finite or a spike) before the run rolls back
    config.optim.max_rollbacks = 2  # rollbacks before the run stops with exit code 3

    config.parallel = ConfigDict()
    config.parallel.cpu_devices = placeholder(int)  # CPU devices to fake; unset: the largest count up to the number of cores that divides the batch
    config.parallel.sync = "pmean"  # synchronisation of the devices: pmean | zero1 | zero3 | local | delayed
    config.parallel.delay_steps = placeholder(int)  # sync=delayed: steps between a batch and the update from its gradient; unset: 1
    config.parallel.num_workers = placeholder(int)  # sync=local: groups of devices that train by themselves; unset: one a device
    config.parallel.local_steps = placeholder(int)  # sync=local: steps between two synchronisations of the workers; unset: 50
    config.parallel.local_fragments = placeholder(int)  # sync=local: groups of layers that synchronise in turn; unset: 1, all at once
    config.parallel.outer_learning_rate = placeholder(float)  # sync=local: learning rate on the averaged differences; unset: 1; 1 without momentum is the plain average
    config.parallel.outer_momentum = placeholder(float)  # sync=local: Nesterov momentum of these; unset: 0.5
    config.parallel.wire_dtype = "float32"  # dtype of gradients between devices, sync=local: of differences between workers; float32 | bfloat16 | int8 | int4; int8 and int4 are quantised in blocks with error feedback
    config.parallel.bucket_mb = placeholder(float)  # MiB of one gradient buffer; unset: one buffer on CPU, 32 elsewhere
    config.parallel.check_every_steps = 100  # updates between checks that all devices hold the same state; 0: off
    config.parallel.watchdog_secs = placeholder(float)  # longest step before exit code 70, other phases ten times as long; unset: learned; 0: off
    config.parallel.init_timeout_secs = 300.0  # time that processes wait for each other at the start
    config.parallel.deterministic = False  # GPU: only bitwise reproducible kernels; slower

    config.eval = ConfigDict()
    config.eval.every_steps = 500  # updates between evaluations; the last step is always evaluated
    config.eval.num_batches = 0  # batches of one evaluation inside training; 0: the whole split, which `jaxdp eval` always measures
    config.eval.metric = "eval/loss"  # metric of the best checkpoint and of early stopping; the task declares its metrics and their direction
    config.eval.patience = 0  # evaluations without a better metric before the run stops; needs every_steps; 0: off
    config.eval.num_scored = 200  # texts of the validation split that are generated and scored (BLEU) if the task does; 0: none
    config.eval.num_beams = 1  # beams for each of them; 1: greedy

    config.checkpoint = ConfigDict()
    config.checkpoint.every_steps = 500  # updates between saves; the last step is always saved
    config.checkpoint.every_minutes = 0.0  # minutes between saves, in addition to every_steps
    config.checkpoint.keep_latest = 2  # newest checkpoints kept
    config.checkpoint.keep_best = 1  # best checkpoints by eval.metric kept in addition; an evaluation among the best so far saves its state at once; 0: none
    config.checkpoint.keep_every_steps = 0  # checkpoints at multiples of this are never deleted; 0: off
    config.checkpoint.async_save = True  # writes in the background while training continues
    config.checkpoint.grace_secs = 0.0  # seconds between SIGTERM and the kill that follows; 0: unknown

    config.log = ConfigDict()
    config.log.every_steps = 10  # updates between lines of metrics
    config.log.batch_hash = False  # logs a hash of every batch: equal hashes, equal data
    config.log.norms_every_steps = 0  # updates between lines of norms.jsonl: norms of every parameter, its gradient and its update; 0: off
    config.log.noise_scale = False  # logs train/noise_scale, the gradient noise scale in sequences; needs two devices or more, and sync=pmean or zero1
    config.log.samples = 2  # texts of the validation split that an evaluation prints with the generated ones, if the task generates; 0: none
    config.log.resources_every_secs = 10.0  # seconds between samples of memory, CPU and GPU in the background; 0: off
    config.log.tensorboard = False  # also writes WORKDIR/tensorboard (extra: tensorboard)
    config.log.wandb = False  # also writes to Weights & Biases (extra: wandb); offline without a key or a connection
    config.log.wandb_project = placeholder(str)  # project of W&B and trackio, experiment of MLflow; unset: WANDB_PROJECT, TRACKIO_PROJECT, MLFLOW_EXPERIMENT_NAME, or jaxdp
    config.log.wandb_entity = placeholder(str)  # user or team of W&B; unset: WANDB_ENTITY, or that of the key
    config.log.wandb_group = placeholder(str)  # group of the run in W&B, trackio and MLflow; unset: WANDB_RUN_GROUP
    config.log.wandb_tags = ()  # tags of the run in W&B, trackio and MLflow; empty: WANDB_TAGS
    config.log.trackio = False  # also writes to trackio (extra: trackio), in TRACKIO_DIR unless TRACKIO_SPACE_ID or TRACKIO_SERVER_URL is set
    config.log.mlflow = False  # also writes to MLflow (extra: mlflow), in WORKDIR/mlflow unless MLFLOW_TRACKING_URI is set

    # Locked, so that a misspelled key in a recipe is an error.
    return config.lock()
