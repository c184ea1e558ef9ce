"""What client and server must agree on: messages, codec, secure summation, mechanisms, accounting. No I/O."""
