"""Questions about private personalization, a folder or file each, each answered by one command."""
