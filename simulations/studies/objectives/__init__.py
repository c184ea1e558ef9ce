"""What each objective of personal training is worth."""
