"""From files to the host batches of one process; NumPy only, no JAX.

The way of the data, one folder a step:

    reading      files, data sets -> records        cleaning     records -> cleaned records
    tokenizers   text <-> token ids                 preparing    records -> arrays on disk, mapped
    rows         arrays -> rows                     order        step -> which rows, of which process
    pipeline     rows -> batches, data state        stream       records -> batches, as they come
    prefetch     batches, ahead of the consumer     hashing      a hash of a batch

A kind of row is anything with `num_rows` and `rows(indices)`, as
`pipeline.RowSource` says; nothing from `order` on knows more.
"""
