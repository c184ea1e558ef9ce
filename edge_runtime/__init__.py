"""Everything that runs on one person's device: model, adapters, memory, answers, keys. It opens no network."""
