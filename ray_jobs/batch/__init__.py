"""Jobs over shards of texts, here or on Ray Data workers: `minibert embed`, `predict --input`, `recruit index`."""
