"""Object storage: URLs, a store interface of few operations, its client for S3 and Google Cloud Storage, and a lease.

A store has immutable semantics per object: an object is put whole, read whole or in ranges, listed and deleted; there
is no rename and no append. Two conditional operations, `put_new` and `replace`, decide between writers.
"""
