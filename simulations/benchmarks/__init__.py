"""The field's benchmarks in one form (`form.py`), their metrics (`metrics.py`), and which there are (`sets.py`)."""
