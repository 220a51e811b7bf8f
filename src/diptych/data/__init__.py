"""Files -> samples -> batches: shards and their index, decoding within limits, data sets, mixtures, the loader."""
