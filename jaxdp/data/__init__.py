"""From files to the host batches of one process; NumPy only, no JAX.

The way of the data, one module a step:

    files, file_content    which files, and their bytes          hub, arrow      data sets, Parquet
    readers, sources       bytes -> records, by `data.source`    tokens_file     tokens prepared elsewhere
    cleaning, html_text    records -> cleaned records            fingerprint, split, scan
                                                                 one look at all of them before the work
    tokenizers             text <-> token ids
    prepare, examples      records -> arrays on disk, mapped     cache           made once, whole or absent
    flat                   the arrays of many shards as one
    windows, packing, padded                                     long_documents
                           arrays -> rows, by `data.packing`
    order, mixture, balance                                      permutation     a keyed order of range(n)
                           step -> which rows
    partition              which of them this process holds
    pipeline               rows -> batches, data state           stream          records as they come
    prefetch               batches, ahead of the consumer        hashing         a hash of a batch

A kind of row is anything with `num_rows` and `rows(indices)`, as
`pipeline.RowSource` says; nothing from `order` on knows more.
"""
