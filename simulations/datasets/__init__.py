"""Real and invented people and questions, from files in their original formats."""
