"""Data pipeline, from files to the host batches of one process; NumPy only, no JAX.

One folder a stage:

    reading      files, datasets -> records         cleaning     records -> cleaned records
    tokenizers   text <-> token ids                 preparing    records -> memory-mapped arrays
    sequences    arrays -> sequences of tokens      samplers     step -> sequences of the batch, and their process
    pipeline     sequences -> batches, data state   stream       records -> batches, in the order of a stream
    prefetch     batches, ahead of the consumer     batch_hash   hash of a batch

A dataset of sequences has `num_rows` and `rows(indices)`, see `pipeline.SequenceDataset`; samplers, pipeline and
prefetch depend on nothing else.
"""
