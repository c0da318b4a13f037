"""From files to the host batches of one process; NumPy only, no JAX.

The way of the data, one module a step:

    sources      files -> documents           tokens_file  tokens prepared elsewhere
    tokenizers   text <-> token ids           corpus       documents -> one token array
    windows      token array -> rows          permutation  a keyed order of range(n)
    order        step -> which rows           partition    which of them this process holds
    pipeline     rows -> batches, data state  prefetch     batches, ahead of the consumer
    hashing      a hash of a batch that does not depend on processes

A kind of row (packed documents, pairs of texts) is anything with `num_rows` and
`rows(indices)`, as `pipeline.RowSource` says; nothing from `order` on knows more.
"""
