"""From arrays to rows, by `data.packing`: windows, packed documents, padded examples."""
