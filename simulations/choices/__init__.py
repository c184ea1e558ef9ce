"""What people prefer, learnt from their choices: data, features, methods, and the tables that compare them."""
