"""Quantisation by notes shown and retriever."""
