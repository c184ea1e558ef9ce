"""Everything that runs on one person's device: model, adapters, memory, answers and keys. It opens no network connection."""
